"""A folder of image files as a data set.

By default the SHA-256 of an image's path relative to the folder determines its split: a twentieth each for test and
validation, at least one image. It stays the same when images are added or the folder moves.

A file of splits is JSON, `{"train": ["a.png", ...], "validation": [...], "test": [...]}`, or text with a line `train
a.png` or `train,a.png` per image. Images that it does not name are left out.

The class of `cats/indoor/1.png` is `cats`; classes are numbered in the order of their names.
"""

import collections
import functools
import hashlib
import pathlib
import re
from typing import Any

from absl import logging
import numpy as np

from flowpp_tf.core.checks import pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache, images
from flowpp_tf.data.dataset import SPLITS, ImageDataset
from flowpp_tf.data.random_crops import RandomCrops
from flowpp_tf.io import budget
from flowpp_tf.io.gate import parse_json, read_text, reason
from flowpp_tf.io.image_file import ImageFileError
from flowpp_tf.io.image_folder import open_folder
from flowpp_tf.types import Path, Shape

_SHARE = 0.05  # of the images, for test and for validation each
_BYTES_OF_LINE = 400  # of memory, for a line of a file of splits
_MOST_CROPS = 10_000  # in validation and in test


def load_folder(
  path: Path,
  image_shape: Shape | None,
  splits_file: Path | None = None,
  max_bad_files: int = 0,
  cache_dir: Path | None = None,
  crops: bool = False,
  labels: bool = False,
  levels: int = 256,
) -> ImageDataset:
  """Load the image files below a folder; images.py says how a file is read.

  They are PNG, JPEG and WebP files; for a model of more than 256 levels also TIFF, NumPy's and FITS files.

  Args:
    path: the folder.
    image_shape: `(H, W, C)` to crop and resize to.
    splits_file: a file of splits, or None.
    max_bad_files: the maximum number of unreadable files to skip; more are an error.
    cache_dir: see `cache.decoded_images`.
    crops: whether to keep the images in their size, as `RandomCrops`. Validation and test then are at most 10,000
      crops of a grid.
    labels: whether to load the class of each image, too; not with `crops`.
    levels: of the model: with more than 256, all bits of files with more than 8 are kept, and others are errors.

  Raises:
    InputError (a ValueError): naming the folder or the files that are wrong.
  """
  if image_shape is None:
    raise InputError("`image_shape` must say to which shape the images of a folder are resized")
  images.check_channels(image_shape)
  levels = max(levels, 256)  # fewer bits are taken of all 8
  folder, names, kinds_left_out = open_folder(path, levels)
  splits = _read_splits(splits_file, set(names), path) if splits_file else _hashed_splits(names, path)
  files = {split: [folder / name for name in names] for split, names in splits.items()}
  classes = _classes(splits, path) if labels else ()
  identity = {split: cache.file_identity(paths, folder) for split, paths in files.items()}
  source: list[Any] = [str(folder.resolve()), identity]
  source_bytes = sum(size for rows in identity.values() for _, size, _ in rows)
  if crops:
    size = functools.partial(_size, channels=image_shape[2], levels=levels)
    sizes = {split: list(images.parallel_map(size, paths)) for split, paths in files.items()}
    # Photographs are the same for all sizes of crops, except for those that are left out.
    source += ["photographs", [[_is_too_small(size, image_shape) for size in row] for row in sizes.values()]]
    counts, shape = {split: sum(h * w for h, w in sizes[split]) for split in files}, image_shape[2:]
    fill = functools.partial(_fill_photographs, files, sizes, image_shape, max_bad_files, levels)
  else:
    counts, shape = {split: len(paths) for split, paths in files.items()}, image_shape
    fill = functools.partial(fill_from_files, files, image_shape, max_bad_files, levels=levels)
  if levels > 256:
    source.append(levels)  # which values are errors
  arrays, about = cache.decoded_images(
    folder.resolve().name, source, counts, shape, fill, source_bytes, cache_dir, dtype=pixel_dtype(levels)
  )
  _report_bad(about["bad"], max_bad_files)
  for split, array in arrays.items():
    if not len(array):
      large = f" and is at least {image_shape[1]}x{image_shape[0]}" if crops else ""
      raise InputError(f"folder {str(path)!r}: no image of `{split}` can be read{large}")
  left_out = len(names) - sum(map(len, files.values()))
  train, validation, test = (
    RandomCrops(arrays[split], about["sizes"][split], image_shape, None if split == "train" else _MOST_CROPS)
    if crops
    else arrays[split]
    for split in SPLITS
  )
  return ImageDataset(
    f"folder:{folder.resolve().name}",
    levels,
    train,
    validation,
    test,
    notes=tuple(_notes(about, left_out, splits_file, "" if splits_file else kinds_left_out)),
    labels=_labels(splits, classes, about, path) if labels else None,
    classes=classes,
  )


def _notes(about, left_out, splits_file, kinds_left_out):
  """Return lines for the user about what was read, and how."""
  notes = [f"left out, as {splits_file} does not name them: {left_out}"] if left_out else []
  if kinds_left_out:
    notes.append(kinds_left_out)
  if about["bad"]:
    notes.append(f"skipped, as they cannot be read: {len(about['bad'])}")
  notes += [f"of {what}: {count}" for what, count in about.get("parts_left_out", {}).items()]
  if about.get("too_small"):
    notes.append(f"left out, as they are smaller than a crop: {about['too_small']}")
  if about.get("enlarged"):
    notes.append(f"smaller than the model's images and enlarged, which makes their bits/dim low: {about['enlarged']}")
  return notes


def fill_from_files(
  files: dict[str, list[pathlib.Path]], image_shape: Shape, max_bad_files: int, arrays: cache.Arrays, levels: int = 256
) -> tuple[cache.Arrays, dict[str, Any]]:
  """Read files into arrays by split, skipping up to `max_bad_files`; see `cache.decoded_images`."""

  def read(path):
    try:
      return *images.read_image(path, image_shape, levels=levels), images.parts_left_out(path, levels)
    except ImageFileError as error:
      return f"{path} ({error.reason})"

  kept, bad, enlarged, parts = {}, [], 0, collections.Counter[str]()
  for split, paths in files.items():
    kept[split] = np.ones(len(paths), bool)
    for row, result in enumerate(images.parallel_map(read, paths)):
      if isinstance(result, str):
        kept[split][row] = False
        bad.append(result)
      else:
        arrays[split][row] = result[0]
        enlarged += result[1]
        parts.update(result[2])
  if len(bad) > max_bad_files:
    _report_bad(bad, max_bad_files)
  kept = {split: rows for split, rows in kept.items() if not rows.all()}
  skipped = {split: np.flatnonzero(~rows).tolist() for split, rows in kept.items()}
  return kept, {"bad": bad, "enlarged": enlarged, "skipped": skipped, "parts_left_out": parts}


def _classes(splits, path):
  """Return the sorted names of the first folders below the data set's."""
  for name in sum(splits.values(), []):
    if "/" not in name:
      raise InputError(
        f"folder {str(path)!r}: image {name!r} has no label; expected it in a subfolder named after its class"
      )
  return tuple(sorted({name.partition("/")[0] for names in splits.values() for name in names}))


def _labels(splits, classes, about, path):
  """Return the labels of the images that are not skipped, by split."""
  if about["bad"] and "skipped" not in about:  # written by a version of this package without labels
    raise InputError(
      f"folder {str(path)!r}: its cache does not say which images were skipped, so their labels are not "
      "known; give another --cache_dir to decode them again"
    )
  skipped = about.get("skipped", {})
  numbers = {name: i for i, name in enumerate(classes)}
  return {
    split: np.delete([numbers[name.partition("/")[0]] for name in names], skipped.get(split, []))
    for split, names in splits.items()
  }


def _size(path, channels, levels):
  """(height, width) of an image file, (0, 0) if it cannot be read."""
  try:
    return images.upright_size(path, channels, levels)[::-1]
  except ImageFileError:  # reading it will say why
    return 0, 0


def _is_too_small(size, image_shape):
  """Whether an image that can be read has no crop."""
  return 0 < size[0] < image_shape[0] or 0 < size[1] < image_shape[1]


def _fill_photographs(files, sizes, image_shape, max_bad_files, levels, arrays):
  """Read files in their own size into arrays of pixels by split; see `cache.decoded_images`."""

  def read(item):
    path, size = item
    if _is_too_small(size, image_shape):
      return None
    try:
      image = images.read_photograph(path, image_shape[2], levels)
      return image if image.shape[:2] == size else f"{path} (its size has changed)"
    except ImageFileError as error:
      return f"{path} ({error.reason})"

  kept, bad, too_small, parts = {}, [], 0, collections.Counter[str]()
  sizes_kept: dict[str, list[tuple[int, int]]] = {}
  for split, paths in files.items():  # one after the other, so that no place stays empty: a mask would have every pixel
    sizes_kept[split], end = [], 0
    for path, size, result in zip(paths, sizes[split], images.parallel_map(read, zip(paths, sizes[split]), ahead=2)):
      if isinstance(result, np.ndarray):
        begin, end = end, end + size[0] * size[1]
        arrays[split][begin:end] = result.reshape(-1, image_shape[2])
        sizes_kept[split].append(size)
        parts.update(images.parts_left_out(path, levels))
      else:
        too_small += result is None
        bad += [] if result is None else [result]
    if end < len(arrays[split]):
      kept[split] = slice(end)
  if len(bad) > max_bad_files:
    _report_bad(bad, max_bad_files)
  return kept, {"bad": bad, "too_small": too_small, "sizes": sizes_kept, "parts_left_out": parts}


def _report_bad(bad, max_bad_files):
  if len(bad) > max_bad_files:
    raise InputError(
      f"{len(bad)} image file{'s' * (len(bad) > 1)} cannot be read, more than "
      f"--max_bad_files={max_bad_files}: {', '.join(bad)}"
    )
  for file in bad:
    logging.warning("skipped, as it cannot be read: %s", file)


def _hashed_splits(names, path):
  def place(name):
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

  places = sorted((place(name), name) for name in names)
  test = max(1, sum(p < _SHARE for p, _ in places))
  validation = max(1, sum(_SHARE <= p < 2 * _SHARE for p, _ in places))
  if test + validation >= len(names):
    raise InputError(
      f"folder {str(path)!r} has {len(names)} image{'s' * (len(names) > 1)}; it takes at "
      "least 3, one for each of train, validation and test"
    )
  ordered = [name for _, name in places]
  return {
    "train": sorted(ordered[test + validation :]),
    "validation": sorted(ordered[test : test + validation]),
    "test": sorted(ordered[:test]),
  }


def _read_splits(splits_file, present, path):
  """Return the image names by split from a file of splits."""
  try:
    text = read_text(pathlib.Path(splits_file).expanduser())
    if str(splits_file).lower().endswith(".json"):
      table = parse_json(text)
      pairs: list[tuple[Any, ...]] = [(repr(split), split, name) for split, names in table.items() for name in names]
    else:
      lines = text.count("\n") + 1
      budget.claim("memory", _BYTES_OF_LINE * lines, f"a table of {lines:,} lines")
      pairs = [
        (f"line {i + 1}", *re.split(r"[\s,;]+", line.strip(), maxsplit=1), "")[:3]
        for i, line in enumerate(text.splitlines())
        if line.strip()
      ]
  except OSError as error:
    raise InputError(f"file of splits {str(splits_file)!r} cannot be read: {reason(error)}") from None
  except budget.BudgetError as error:
    raise budget.BudgetError(f"file of splits {str(splits_file)!r}: {error}") from None
  except (ValueError, AttributeError, TypeError) as error:
    raise InputError(
      f'file of splits {str(splits_file)!r} is not JSON of the form {{"train": ["a.png", ...], ...}}: {error}'
    ) from None
  splits: dict[str, list[str]] = {split: [] for split in SPLITS}
  seen = set()
  for where, split, name in pairs:
    name = str(name).strip().strip('"')
    if where == "line 1" and split.lower() == "split":  # a header
      continue
    problem = (
      f"unknown split {split!r}"
      if split not in SPLITS
      else f"no image {name!r} in folder {str(path)!r}"
      if name not in present
      else f"{name!r} is there twice"
      if name in seen
      else None
    )
    if problem:
      raise InputError(
        f"file of splits {str(splits_file)!r}, {where}: {problem}; a line is one of "
        f"{', '.join(SPLITS)} and the name of an image below the folder"
      )
    seen.add(name)
    splits[split].append(name)
  for split, names in splits.items():
    if not names:
      raise InputError(f"file of splits {str(splits_file)!r} names no image for {split!r}")
  return splits

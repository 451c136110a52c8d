"""A folder of image files as a data set.

By default the SHA-256 of an image's path relative to the folder determines its split: a twentieth each for test and
validation, at least one image. It stays the same when images are added or the folder moves.

A file of splits is JSON, `{"train": ["a.png", ...], "validation": [...], "test": [...]}`, or text with a line `train
a.png` or `train,a.png` per image. Images that it does not name are left out.

The class of `cats/indoor/1.png` is `cats`; classes are numbered in the order of their names.
"""

import collections
from collections.abc import Callable
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
from flowpp_tf.io.gate import parse_json, read_text, reading
from flowpp_tf.io.image_file import ImageFileError
from flowpp_tf.io.image_folder import open_folder
from flowpp_tf.types import Path, Shape

_SHARE = 0.05  # of the images, for test and for validation each
_BYTES_OF_LINE = 400  # of memory, for a line of a file of splits
_MOST_CROPS = 10_000  # in validation and in test
_ENLARGED = "smaller than the model's images and enlarged, which makes their bits/dim low"
_TOO_SMALL = "left out, as they are smaller than a crop"


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
  splits = _read_splits(splits_file, set(names)) if splits_file else _hashed_splits(names, path)
  files = {split: [folder / name for name in names] for split, names in splits.items()}
  classes = _classes(splits, path) if labels else ()
  identity = {split: cache.file_identity(paths, folder) for split, paths in files.items()}
  source: list[Any] = [str(folder.resolve()), identity, levels]  # the levels say which values are errors
  source_bytes = sum(size for rows in identity.values() for _, size, _ in rows)
  if crops:
    sizes = _sizes(files, image_shape[2], levels)
    # Photographs are the same for all sizes of crops, except for those that are left out.
    source += ["photographs", [[_is_too_small(sizes[path], image_shape) for path in row] for row in files.values()]]
    counts = {split: sum(height * width for height, width in map(sizes.get, paths)) for split, paths in files.items()}
    shape = image_shape[2:]
    read: Callable[..., Any] = functools.partial(_read_photograph, sizes=sizes)
  else:
    counts, shape, read = {split: len(paths) for split, paths in files.items()}, image_shape, _read_fitted
  read = functools.partial(read, image_shape=image_shape, levels=levels)
  fill = functools.partial(_fill, files, read, max_bad_files, 2 if crops else 64)
  arrays, about = cache.decoded_images(
    folder.resolve().name, source, counts, shape, fill, source_bytes, cache_dir, dtype=pixel_dtype(levels)
  )
  _report_bad(about["bad"], max_bad_files)
  for split, array in arrays.items():
    if not len(array):
      large = f" and is at least {image_shape[1]}x{image_shape[0]}" if crops else ""
      raise InputError(f"folder {str(path)!r}: no image of `{split}` can be read{large}")
  kept = {split: np.delete(np.arange(len(paths)), about["skipped"][split]) for split, paths in files.items()}
  train, validation, test = (
    RandomCrops(
      arrays[split],
      [sizes[files[split][number]] for number in kept[split]],
      image_shape,
      None if split == "train" else _MOST_CROPS,
    )
    if crops
    else arrays[split]
    for split in SPLITS
  )
  left_out = len(names) - sum(map(len, files.values()))
  notes = [
    (f"left out, as {splits_file} does not name them: {left_out}", left_out),
    (kinds_left_out, kinds_left_out and not splits_file),
    (f"skipped, as they cannot be read: {len(about['bad'])}", about["bad"]),
    *((f"{remark}: {count}", count) for remark, count in about["remarks"].items()),
  ]
  return ImageDataset(
    f"folder:{folder.resolve().name}",
    levels,
    train,
    validation,
    test,
    notes=tuple(note for note, is_true in notes if is_true),
    labels=_labels(splits, classes, kept) if labels else None,
    classes=classes,
  )


def _classes(splits, path):
  """Return the sorted names of the first folders below the data set's."""
  names = [name for names in splits.values() for name in names]
  if unlabelled := next((name for name in names if "/" not in name), None):
    raise InputError(f"folder {str(path)!r}: image {unlabelled!r} must be in a subfolder named after its class")
  return tuple(sorted({name.partition("/")[0] for name in names}))


def _labels(splits, classes, kept):
  """Return the labels of the images that are kept, by split."""
  numbers = {name: number for number, name in enumerate(classes)}
  of_images = {split: [numbers[name.partition("/")[0]] for name in names] for split, names in splits.items()}
  return {split: np.array(labels)[kept[split]] for split, labels in of_images.items()}


# --- Reading the files ----------------------------------------------------------------------------


def _fill(files, read, max_bad_files, ahead, arrays):
  """Read files into the first rows of arrays by split; see `cache.decoded_images`.

  Args:
    files: paths by split.
    read: returns the rows of a path, or None for an image that is left out, and remarks about it.
    max_bad_files: the maximum number of unreadable files to skip.
    ahead: how many files each thread reads ahead.
    arrays: to write into.
  """

  def read_or_reason(path):
    try:
      return read(path)
    except ImageFileError as error:
      return f"{path} ({error.reason})"

  counts = dict.fromkeys(files, 0)
  skipped: dict[str, list[int]] = {split: [] for split in files}
  bad, remarks = [], collections.Counter[str]()
  for split, paths in files.items():
    for number, result in enumerate(images.parallel_map(read_or_reason, paths, ahead)):
      rows, of_file = (None, []) if isinstance(result, str) else result
      if isinstance(result, str):
        bad.append(result)
      remarks.update(of_file)
      if rows is None:
        skipped[split].append(number)
      else:
        arrays[split][counts[split] : counts[split] + len(rows)] = rows
        counts[split] += len(rows)
  if len(bad) > max_bad_files:
    _report_bad(bad, max_bad_files)
  return counts, {"bad": bad, "skipped": skipped, "remarks": remarks}


def _read_fitted(path, image_shape, levels):
  """Return an image of the shape, `[1, H, W, C]`, and remarks about it."""
  image, is_enlarged = images.read_image(path, image_shape, levels=levels)
  return image[np.newaxis], _parts_left_out(path, levels) + [_ENLARGED] * is_enlarged


def _read_photograph(path, image_shape, levels, sizes):
  """Return the pixels of an image in its own size, `[H W, C]`, or None if it is smaller than a crop, and remarks."""
  if _is_too_small(sizes[path], image_shape):
    return None, [_TOO_SMALL]
  image = images.read_photograph(path, image_shape[2], levels)
  if image.shape[:2] != sizes[path]:
    raise ImageFileError(f"{str(path)!r}: its size has changed", "its size has changed")
  return image.reshape(-1, image_shape[2]), _parts_left_out(path, levels)


def _parts_left_out(path, levels):
  return [f"of {what}" for what in images.parts_left_out(path, levels)]


def _sizes(files, channels, levels):
  """Return (height, width) of image files by path, (0, 0) of those that cannot be read."""

  def size(path):
    try:
      return images.upright_size(path, channels, levels)[::-1]
    except ImageFileError:  # reading it will say why
      return 0, 0

  paths = [path for paths in files.values() for path in paths]
  return dict(zip(paths, images.parallel_map(size, paths)))


def _is_too_small(size, image_shape):
  """Return whether an image that can be read has no crop."""
  return 0 < size[0] < image_shape[0] or 0 < size[1] < image_shape[1]


def _report_bad(bad, max_bad_files):
  if len(bad) > max_bad_files:
    files = f"{len(bad)} image file{'s' * (len(bad) > 1)} cannot be read"
    raise InputError(f"{files}, more than --max_bad_files={max_bad_files}: {', '.join(bad)}")
  for file in bad:
    logging.warning("skipped, as it cannot be read: %s", file)


# --- Splits ---------------------------------------------------------------------------------------


def _hashed_splits(names, path):
  def place(name):
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

  places = sorted((place(name), name) for name in names)
  test = max(1, sum(p < _SHARE for p, _ in places))
  validation = max(1, sum(_SHARE <= p < 2 * _SHARE for p, _ in places))
  if test + validation >= len(names):
    raise InputError(f"folder {str(path)!r} must have at least 3 images, one for each split, got {len(names)}")
  ordered = [name for _, name in places]
  return {
    "train": sorted(ordered[test + validation :]),
    "validation": sorted(ordered[test : test + validation]),
    "test": sorted(ordered[:test]),
  }


def _read_splits(splits_file, present):
  """Return the image names by split from a file of splits; `present` are the names in the folder."""
  with reading(splits_file, 'expected lines such as "train a.png", or JSON {"train": ["a.png", ...], ...}'):
    text = read_text(pathlib.Path(splits_file).expanduser())
    if str(splits_file).lower().endswith(".json"):
      rows = [(repr(split), split, str(name)) for split, names in parse_json(text).items() for name in names]
    else:
      lines = text.count("\n") + 1
      budget.claim("memory", _BYTES_OF_LINE * lines, f"a table of {lines:,} lines")
      parts = (re.split(r"[\s,;]+", line.strip(), maxsplit=1) for line in text.splitlines())
      rows = [(f"line {number}", part[0], "".join(part[1:])) for number, part in enumerate(parts, 1) if part[0]]
      rows = rows[1:] if rows and rows[0][1].lower() == "split" else rows  # a header
  splits: dict[str, list[str]] = {split: [] for split in SPLITS}
  seen = set()
  for where, split, name in rows:
    name = name.strip().strip('"')
    where = f"{str(splits_file)!r}, {where}:"
    if split not in SPLITS:
      raise InputError(f"{where} unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if name not in present:
      raise InputError(f"{where} no image {name!r} in the folder; expected a path below it")
    if name in seen:
      raise InputError(f"{where} {name!r} is named twice")
    seen.add(name)
    splits[split].append(name)
  if empty := [split for split, names in splits.items() if not names]:
    raise InputError(f"{str(splits_file)!r} names no image for {empty[0]!r}")
  return splits

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
import math
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
  named = [name for split_names in splits.values() for name in split_names]
  class_of, classes = _classes(named, path) if labels else ({}, ())
  sizes = _sizes(folder, named, image_shape[2], levels) if crops else {}
  too_small = {name for name, size in sizes.items() if _is_too_small(size, image_shape)}
  files = {split: [name for name in names if name not in too_small] for split, names in splits.items()}
  if crops:
    counts = {split: sum(math.prod(sizes[name]) for name in names) for split, names in files.items()}
    shape = image_shape[2:]
    ahead = 2
    read: Callable[..., Any] = functools.partial(_read_photograph, sizes=sizes)
  else:
    counts = {split: len(names) for split, names in files.items()}
    shape = image_shape
    ahead = 64
    read = _read_fitted
  read = functools.partial(read, folder, image_shape=image_shape, levels=levels)
  identity = {split: cache.file_identity(folder, names) for split, names in files.items()}
  source = [str(folder.resolve()), identity, levels]  # the levels say which values are errors
  source_bytes = sum(size for rows in identity.values() for _, size, _ in rows)
  about: dict[str, Any] = {"bad": {}, "remarks": collections.Counter()}
  parts = _read_files(files, read, ahead, max_bad_files, about)
  arrays, about = cache.decoded_images(
    folder.resolve().name, source, counts, shape, parts, source_bytes, cache_dir, pixel_dtype(levels), about
  )
  _report_bad(about["bad"], max_bad_files)
  found = {split: [name for name in names if name not in about["bad"]] for split, names in files.items()}
  if empty := [split for split in SPLITS if not found[split]]:
    large = f" and is at least {image_shape[1]}x{image_shape[0]}" if crops else ""
    raise InputError(f"folder {str(path)!r}: no image of `{empty[0]}` can be read{large}: see `splits_file`")
  splits_of_images: dict[str, Any] = dict(arrays)
  if crops:
    for split, most in (("train", None), ("validation", _MOST_CROPS), ("test", _MOST_CROPS)):
      sizes_of_split = [sizes[name] for name in found[split]]
      splits_of_images[split] = RandomCrops(arrays[split], sizes_of_split, image_shape, most, balanced=True)
  labels_by_split = None
  if labels:
    labels_by_split = {split: np.array([class_of[name] for name in found[split]]) for split in SPLITS}
  remarks = {
    f"left out, as {splits_file} does not name them": len(names) - len(named),
    "left out, as they are smaller than a crop": len(too_small),
    "skipped, as they cannot be read": len(about["bad"]),
    **about["remarks"],
  }
  notes = [kinds_left_out] if kinds_left_out and not splits_file else []
  return ImageDataset(
    f"folder:{folder.resolve().name}",
    levels,
    train=splits_of_images["train"],
    validation=splits_of_images["validation"],
    test=splits_of_images["test"],
    notes=(*notes, *(f"{remark}: {count}" for remark, count in remarks.items() if count)),
    labels=labels_by_split,
    classes=classes,
  )


def _classes(names, path):
  """Return the number of the class of each image by its name, and the names of the classes."""
  if unlabelled := next((name for name in names if "/" not in name), None):
    raise InputError(f"folder {str(path)!r}: image {unlabelled!r} must be in a subfolder named after its class")
  classes = tuple(sorted({name.partition("/")[0] for name in names}))
  numbers = {name: number for number, name in enumerate(classes)}
  return {name: numbers[name.partition("/")[0]] for name in names}, classes


# --- Reading the files ----------------------------------------------------------------------------


def _read_files(files, read, ahead, max_bad_files, about):
  """Yield the split and the rows of each file.

  Args:
    files: names by split.
    read: returns the rows of a file, and remarks about it.
    ahead: how many files each thread reads ahead.
    max_bad_files: the maximum number of unreadable files to skip.
    about: gets the reason of each unreadable file by its name, and how often there is each remark.
  """

  def read_or_error(name):
    try:
      return read(name)
    except ImageFileError as error:
      return error

  for split, names in files.items():
    for name, result in zip(names, images.parallel_map(read_or_error, names, ahead)):
      if isinstance(result, ImageFileError):
        about["bad"][name] = result.reason
      else:
        rows, remarks = result
        about["remarks"].update(remarks)
        yield split, rows
  if len(about["bad"]) > max_bad_files:
    _report_bad(about["bad"], max_bad_files)


def _read_fitted(folder, name, image_shape, levels):
  """Return an image of the shape, `[1, H, W, C]`, and remarks about it."""
  image, is_enlarged = images.read_image(folder / name, image_shape, levels=levels)
  return image[np.newaxis], _parts_left_out(folder / name, levels) + [_ENLARGED] * is_enlarged


def _read_photograph(folder, name, image_shape, levels, sizes):
  """Return the pixels of an image in its own size, `[H W, C]`, and remarks about it."""
  image = images.read_photograph(folder / name, image_shape[2], levels)
  if image.shape[:2] != sizes[name]:
    raise ImageFileError(f"{name!r}: its size has changed", "its size has changed")
  return image.reshape(-1, image_shape[2]), _parts_left_out(folder / name, levels)


def _parts_left_out(path, levels):
  return [f"of {what}" for what in images.parts_left_out(path, levels)]


def _sizes(folder, names, channels, levels):
  """Return (height, width) of image files by name, (0, 0) of those that cannot be read."""

  def size(name):
    try:
      return images.upright_size(folder / name, channels, levels)[::-1]
    except ImageFileError:  # reading it will say why
      return 0, 0

  return dict(zip(names, images.parallel_map(size, names)))


def _is_too_small(size, image_shape):
  """Return whether an image that can be read has no crop."""
  return 0 < size[0] < image_shape[0] or 0 < size[1] < image_shape[1]


def _report_bad(bad, max_bad_files):
  if len(bad) > max_bad_files:
    files = f"{len(bad)} image file{'s' * (len(bad) > 1)} cannot be read"
    reasons = ", ".join(f"{name} ({reason})" for name, reason in bad.items())
    raise InputError(f"{files}, more than --max_bad_files={max_bad_files}: {reasons}")
  for name, reason in bad.items():
    logging.warning("skipped, as it cannot be read: %s (%s)", name, reason)


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
    text = read_text(pathlib.Path(splits_file).expanduser()).replace("\r", "\n")
    if str(splits_file).lower().endswith(".json"):
      rows = [(split, str(name)) for split, names in parse_json(text).items() for name in names]
    else:
      lines = text.count("\n") + 1
      budget.claim("memory", _BYTES_OF_LINE * lines, f"a table of {lines:,} lines")
      rows = re.findall(r"^[ \t]*([^\s,;]+)[ \t,;]*(.*)", text, re.MULTILINE)
      if rows and rows[0][0].lower() == "split":  # a header
        rows = rows[1:]
  splits: dict[str, list[str]] = {split: [] for split in SPLITS}
  for split, name in rows:
    name = name.strip().strip('"')
    if split not in SPLITS:
      raise InputError(f"{str(splits_file)!r}: unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if name not in present:
      raise InputError(f"{str(splits_file)!r}: {name!r} is not an image of the folder, or is named twice")
    present.remove(name)
    splits[split].append(name)
  if empty := [split for split, names in splits.items() if not names]:
    raise InputError(f"{str(splits_file)!r} names no image for {empty[0]!r}")
  return splits

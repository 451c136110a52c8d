"""Decoded images: a small set stays in memory, a large one is decoded once into memory-mapped files.

    CACHE_DIR/NAME-0123456789abcdef/   train.npy, validation.npy, ... and about.json

The hexadecimal digits identify the source (files, sizes, times) and how it was decoded. A folder gets its name when it
is complete; a killed process leaves `.unfinished.*`. Delete both when no run uses them.
"""

from collections.abc import Iterable
import hashlib
import json
import math
import os
import pathlib
import shutil
from typing import Any, TypeAlias
import uuid

from absl import logging
import numpy as np

from flowpp_tf.io.budget import size_text
from flowpp_tf.io.files import create_array, sync, writing
from flowpp_tf.io.gate import map_npy, read_json, reading
from flowpp_tf.types import Path, Shape

Arrays: TypeAlias = dict[str, np.ndarray]  # by split

_IN_MEMORY = 16 << 20  # bytes; no cache is written if neither the files nor the decoded images exceed it
_FORMAT = 2  # increase it when the same files are decoded to different images


def cache_entry(name: str, identity: Any, cache_dir: Path | None = None) -> pathlib.Path:
  """Return the path in the cache of what a JSON-serializable value identifies; `name` is for the reader of a list.

  The cache is `cache_dir`, or the folder `flowpp_tf` in the user's cache folder.
  """
  folder = cache_dir or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "flowpp_tf")
  digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
  label = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:50]  # a name has 255 bytes at most
  return pathlib.Path(folder).expanduser() / f"{label}-{digest[:16]}"


def file_identity(folder: pathlib.Path, names: list[str]) -> list[list[Any]]:
  """Return `[name, bytes, time in ns]` of each file of a folder.

  A link that leads nowhere has its own size and time: reading it later raises the error.
  """
  rows: list[list[Any]] = []
  for name in names:
    path = folder / name
    status = path.stat() if path.exists() else path.lstat()
    rows.append([name, status.st_size, status.st_mtime_ns])
  return rows


def decoded_images(
  name: str,
  identity: Any,
  counts: dict[str, int],
  image_shape: Shape,
  parts: Iterable[tuple[str, np.ndarray]],
  source_bytes: int = 0,
  cache_dir: Path | None = None,
  dtype: np.dtype | type = np.uint8,
  about: dict[str, Any] | None = None,
) -> tuple[Arrays, dict[str, Any]]:
  """Return the images of each split of a source; decode them unless the cache has them.

  Args:
    name: readable name of the source.
    identity: JSON-serializable value that differs for different images.
    counts: number of images in each split, at most.
    image_shape: `(H, W, C)`.
    parts: yields the images, each part with its split: `[n, H, W, C]`. Nothing is read of it if the cache has them.
    source_bytes: size of the source.
    cache_dir: see `cache_entry`.
    dtype: of the images.
    about: JSON-serializable `dict` to store with the images; `parts` may fill it.

  Returns:
    Arrays or memory maps by split, and the stored `about`.

  Raises:
    InputError (a ValueError): if the cache cannot be written or read.
  """
  shapes = {split: (count, *image_shape) for split, count in counts.items()}
  size = np.dtype(dtype).itemsize * sum(map(math.prod, shapes.values()))
  about = {} if about is None else about
  if max(source_bytes, size) <= _IN_MEMORY:
    arrays = {split: np.empty(shape, dtype) for split, shape in shapes.items()}
    rows = _fill(arrays, parts)
  else:
    folder = cache_entry(name, [_FORMAT, image_shape, identity, np.dtype(dtype).name], cache_dir)
    if not folder.exists():
      _write(folder, shapes, dtype, size, parts, about)
    with reading(folder, "delete it to decode again"):
      rows, about = read_json(folder / "about.json")
      arrays = {split: map_npy(folder / f"{split}.npy") for split in counts}
      if any(array.dtype != dtype or array.shape != shapes[split] for split, array in arrays.items()):
        raise ValueError("its arrays are not those that were written")
  return {split: array[: rows[split]] for split, array in arrays.items()}, about


def _fill(arrays, parts):
  """Write each part behind the one before it, and return the number of rows that are written, by split."""
  rows = dict.fromkeys(arrays, 0)
  for split, images in parts:
    end = rows[split] + len(images)
    arrays[split][rows[split] : end] = images
    rows[split] = end
  return rows


def _write(folder, shapes, dtype, size, parts, about):
  unfinished = folder.with_name(f".unfinished.{folder.name}.{uuid.uuid4().hex[:8]}")
  try:
    with writing(f"{size_text(size)} of decoded images in --cache_dir={str(folder.parent)!r}"):
      unfinished.mkdir(parents=True)
      arrays = {split: create_array(unfinished / f"{split}.npy", dtype, shape) for split, shape in shapes.items()}
    logging.warning("decoding images into %s, only once: %s", folder, size_text(size))
    rows = _fill(arrays, parts)
    for array in arrays.values():
      array.flush()
    (unfinished / "about.json").write_text(json.dumps([rows, about]))
    for path in unfinished.iterdir():
      sync(path)
    try:
      os.rename(unfinished, folder)
    except OSError:
      if not folder.exists():  # else another process has written it
        raise
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)

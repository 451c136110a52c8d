"""The published files of the old downsampled ImageNet, which TensorFlow Datasets can no longer download.

The folder has, for example for size 32, `train_32x32` and `valid_32x32`, each in one of these forms:

    .npy        one uint8 array `[N, 32, 32, 3]`, memory-mapped
    a folder    PNG files of exactly this size, in the order of their names: the published .tar, unpacked

tools/convert_imagenet.py makes the .npy of the other forms that people have.
"""

import pathlib
from typing import BinaryIO

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache, images
from flowpp_tf.io.gate import map_npy, reading
from flowpp_tf.io.image_file import ImageFileError, open_image
from flowpp_tf.io.image_folder import image_files
from flowpp_tf.types import Path, Shape

FORMS = (".npy", "")
OTHER_FORMS = (".npz", ".tar", ".tar.gz", ".tgz", ".zip")


def find_published(data_dir: Path, size: int) -> dict[str, pathlib.Path] | None:
  """Return the paths of `train` and `validation`, or None unless both are there.

  Raises:
    InputError (a ValueError): if a split is there only in a form that has to be converted.
  """
  found: dict[str, pathlib.Path] = {}
  for split, stem in (("train", f"train_{size}x{size}"), ("validation", f"valid_{size}x{size}")):
    paths = {form: pathlib.Path(data_dir).expanduser() / (stem + form) for form in (*FORMS, *OTHER_FORMS)}
    form = next((form for form, path in paths.items() if path.exists() and (form or path.is_dir())), None)
    if form in OTHER_FORMS:
      raise InputError(
        f"{str(paths[form])!r} must be converted: `python tools/convert_imagenet.py FILE` of the repository writes "
        f"{stem}.npy"
      )
    if form is not None:
      found[split] = paths[form]
  return found if len(found) == 2 else None


def load_published(paths: dict[str, pathlib.Path], size: int, cache_dir: Path | None = None) -> cache.Arrays:
  """Load the result of `find_published`: uint8 arrays or memory maps `[N, size, size, 3]` by split.

  Raises:
    InputError (a ValueError): naming the file that does not hold such images.
  """
  shape = size, size, 3
  return {split: _load(path, shape, cache_dir) for split, path in paths.items()}


def _load(path, shape, cache_dir):
  with reading(path):
    if path.is_dir():
      return _load_folder(path, shape, cache_dir)
    array = map_npy(path)
    check_array(path, array.dtype, array.shape, shape)
    return array


def _load_folder(path, shape, cache_dir):
  names = image_files(path)
  if not names:
    raise InputError(f"{str(path)!r} has no image files")

  def fill(arrays):
    decode = lambda item: (item[0], decode_exactly(path, item[1], path / item[1], shape))
    for row, image in images.parallel_map(decode, enumerate(names)):
      arrays["images"][row] = image
    return {}, {}

  identity = cache.file_identity([path / name for name in names])
  size = sum(row[1] for row in identity)
  arrays, _ = cache.decoded_images(path.name, identity, {"images": len(names)}, shape, fill, size, cache_dir)
  return arrays["images"]


def decode_exactly(source: pathlib.Path, name: str, file: Path | BinaryIO, shape: Shape) -> np.ndarray:
  """Return an image file of `source` as uint8 `[H, W, C]`; raise an `InputError` if it has another size."""
  try:
    with open_image(file, name) as image:
      if image.size != shape[1::-1]:
        raise InputError(f"it has {image.width}x{image.height} pixels")
      return images.fit_image(images.upright(image), shape)[0]
  except ImageFileError as error:
    size = f"{shape[1]}x{shape[0]}"
    raise InputError(f"{str(source)!r}: {name} is no image of {size} pixels: {error.reason}") from None


def check_array(path: pathlib.Path, dtype: np.dtype, found: Shape, shape: Shape) -> None:
  """Raise an `InputError` unless an array of a file holds uint8 images of a shape."""
  if dtype != np.uint8 or len(found) != 4 or found[1:] != shape:
    raise InputError(
      f"{str(path)!r} must hold a uint8 array [N, {', '.join(map(str, shape))}], got {dtype} {list(found)}"
    )

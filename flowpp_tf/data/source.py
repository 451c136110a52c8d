"""Where the images of a split come from: an array, or a source that reads them when it is indexed."""

from typing import Any, Protocol, TypeAlias

import numpy as np

from flowpp_tf.core.checks import as_array, check_arguments, check_not_masked, check_shape, native
from flowpp_tf.core.errors import InputError


class ImageSource(Protocol):
  """Images that are read when they are indexed, as NumPy indexes an array.

  Attributes:
    shape: `(N, H, W, C)`.
    dtype: of the values.
  """

  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, index: Any) -> np.ndarray:
    """Return the images of an index, a slice, or an array of indices."""
    raise NotImplementedError

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # the result is a new array in any case
    return np.asarray(self[:], dtype)


Images: TypeAlias = np.ndarray | ImageSource  # an array may be a memory map


class ReducedBits(ImageSource):
  """uint8 images `[N, H, W, C]` reduced to their upper bits; indexing computes them.

  Args:
    images: uint8, an array or an `ImageSource`.
    bits: how many of the 8 bits to keep.

  Attributes:
    source: the images with all bits.

  Examples:
    >>> from flowpp_tf.data import ReducedBits
    >>> np.asarray(ReducedBits(np.full([1, 1, 1, 1], 255, np.uint8), bits=3)).item()
    7
  """

  dtype = np.dtype(np.uint8)

  @check_arguments
  def __init__(self, images: Images, bits: int) -> None:
    if not 1 <= bits <= 8:
      raise InputError(f"`bits` must be from 1 to 8, got {bits}")
    self.source: Images = as_images("images", images)
    self.bits = bits
    if isinstance(images, ReducedBits):
      self.source = images.source
      self.bits = images.bits + bits - 8
    if self.source.dtype != np.uint8:
      raise InputError(f"`images` must be uint8, got {self.source.dtype}")
    self.shape = self.source.shape

  def __getitem__(self, index: Any) -> np.ndarray:
    return self.reduce(np.asarray(self.source[index]))

  def reduce(self, values: np.ndarray) -> np.ndarray:
    """Return the upper bits of values of the source."""
    return values >> (8 - self.bits)


def as_images(name: str, images: Any, image_shape: tuple[int, ...] | None = None) -> Images:
  """Return images `[N, H, W, C]` of real numbers, at least one: an array, or what NumPy can index, as it is.

  Only bools, which become uint8, and values in another byte order than this machine's are copied.

  Args:
    name: name of the argument in messages.
    images: the images, whose values are not read.
    image_shape: `(H, W, C)`; None for any.

  Raises:
    InputError (a ValueError): for anything else.
  """
  if not (isinstance(getattr(images, "shape", None), tuple) and hasattr(images, "__getitem__")):
    images = as_array(name, images)
  check_not_masked(name, images)
  dtype = getattr(images, "dtype", np.dtype(np.uint8))
  if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
    raise InputError(f"`{name}` must hold real numbers, got {dtype}")
  if dtype.kind == "b":
    images = np.asarray(images, np.uint8)
  elif not dtype.isnative:
    images = native(np.asarray(images))
  check_shape(name, images.shape, [None, *(image_shape or [None] * 3)], "N")
  if 0 in images.shape:
    raise InputError(f"`{name}` must hold at least one image, got shape {tuple(images.shape)}")
  return images

"""What images and labels must be: each rule once, for arrays and for graphs.

The values of an array are checked at once, and wrong ones raise an `InputError`. A graph cannot raise one: `checked`
adds an assertion for each `Check`, and `input_errors` turns the error of a failed assertion into an `InputError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowpp_tf.core.errors import InputError

if TYPE_CHECKING:  # decoding an archive runs without TensorFlow
  import tensorflow as tf

MOST_LEVELS = 1 << 16  # pixel values of 16 bits

# --- Arrays -------------------------------------------------------------------------------------


def pixel_dtype(levels: int) -> np.dtype:
  """Return the dtype of images with so many pixel values: uint8 up to 256, uint16 up to 65,536.

  Raises:
    InputError (a ValueError): for another number of levels.
  """
  if not 2 <= levels <= MOST_LEVELS:
    raise InputError(f"`levels` must be from 2 to {MOST_LEVELS:,}, got {levels}")
  return np.dtype(np.uint8 if levels <= 256 else np.uint16)


def real_dtype(dtype: np.dtype) -> np.dtype:
  """Return the dtype of real-valued images that were stored in another one: float32 if it has all their values."""
  return np.dtype(np.float32 if np.can_cast(dtype, np.float32, "safe") else np.float64)


def native(value: Any) -> Any:
  """Return an array, or lists of arrays, in the byte order of this machine; anything else as it is.

  TensorFlow takes the bytes of another order as they are, which are other numbers. Arrays of FITS files have one.
  """
  if isinstance(value, np.ndarray):
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
  return [native(part) for part in value] if isinstance(value, (list, tuple)) else value


def check_not_masked(name: str, value: Any) -> None:
  """Raise an `InputError` for a masked array, or a list of them: as an array it would lose its mask."""
  parts = value if isinstance(value, (list, tuple)) else [value]
  if any(isinstance(part, np.ma.MaskedArray) for part in parts):
    raise InputError(f"`{name}` must not be a masked array: give it without the masked rows, or `.filled(value)`")


def check_shape(name: str, shape: Sequence[int | None], expected: Sequence[int | None], batch: str = "B") -> None:
  """Raise an `InputError` unless a shape is the expected one; None, in either of them, stands for any size.

  Args:
    name: name of the argument in the message.
    shape: shape that was found.
    expected: shape that it must be.
    batch: how the message names a size that may be any.
  """
  if len(shape) != len(expected) or any(a != b and None not in (a, b) for a, b in zip(shape, expected)):
    raise InputError(f"{_not_of_shape(name, expected, batch)} {shape}")


def check_all_finite(name: str, values: np.ndarray | tf.Tensor) -> None:
  """Raise an `InputError` for NaN and infinity, where values can be seen: in arrays, and in eager mode."""
  seen = _seen(values)
  if seen is not None and not np.all(np.isfinite(seen)):
    wrong = ~np.isfinite(seen)
    first = f", the first in image {np.argmax(wrong.any(axis=(1, 2, 3)))}" if wrong.ndim == 4 else ""
    raise InputError(f"`{name}` must be finite, got {np.sum(wrong)} values that are NaN or infinite{first}")


def check_uniform_noise(name: str, values: np.ndarray | tf.Tensor) -> None:
  """Raise an `InputError` for values outside of [0, 1), which no uniform noise has, where values can be seen."""
  seen = _seen(values)
  if seen is not None and seen.size and not (seen.min() >= 0 and seen.max() < 1):
    raise InputError(f"`{name}` that is uniform must lie in [0, 1), got values from {seen.min()} to {seen.max()}")


def _seen(values):
  """Return values as an array, or None where they cannot be seen, as those of a graph."""
  values = values.numpy() if hasattr(values, "numpy") else values
  return values if isinstance(values, np.ndarray) else None


def check_pixels(images: np.ndarray, levels: int | None, name: str = "images") -> None:
  """Raise an `InputError` unless all values of an array are integers in 0 .. levels - 1.

  Args:
    images: array of any shape, with at least one value.
    levels: number of pixel values; None for real-valued images, whose values must be finite.
    name: name of the argument in the message.
  """
  if images.size == 0:
    raise InputError(f"`{name}` must hold at least one image, got shape {images.shape}")
  if levels is None:
    check_all_finite(name, images)
    return
  if images.dtype.kind not in "biu":  # NumPy does not know that bfloat16 is floating
    check_all_finite(name, images)
    fractional = images[images != np.floor(images)]
    if fractional.size:
      divided = images.min() >= 0 and images.max() <= 1
      raise InputError(f"{_not_integers(levels, divided, name)} {fractional[0]}")
  low, high = images.min(), images.max()
  if low < 0 or high >= levels:
    raise InputError(f"`{name}` must lie in 0 .. {levels - 1} ({levels} levels), got values from {low} to {high}")


def check_labels(labels: np.ndarray, lowest: int, num_classes: int, of: str = "", hint: str = "") -> None:
  """Raise an `InputError` unless all labels lie in lowest .. num_classes - 1.

  Args:
    labels: integers of any shape.
    lowest: -1 if images may be without a label, else 0.
    num_classes: number of classes.
    of: what the message says of whose labels they are.
    hint: what the message says at the end.
  """
  if np.any((labels < lowest) | (labels >= num_classes)):
    raise InputError(f"{_not_labels(lowest, num_classes, of)} values from {np.min(labels)} to {np.max(labels)}{hint}")


def _not_of_shape(name, expected, batch="B"):
  sizes = ", ".join(batch if size is None else str(size) for size in expected)
  return f"`{name}` must be of shape [{sizes}], got"


def _not_integers(levels, divided, name="images"):
  """The message about pixels, up to the value; `divided`: all of them are from 0 to 1."""
  hint = ", not scaled to 0 .. 1 (did you divide by 255?)" if divided else ""
  return f"`{name}` must be integers in 0 .. {levels - 1}{hint}, got"


def _not_labels(lowest, num_classes, of=""):
  return f"`labels`{of} must lie in {lowest} .. {num_classes - 1}{f' ({num_classes} classes)' if of else ''}, got"


# --- Real numbers -------------------------------------------------------------------------------


def real_tensor(name: str, value: Any, dtype: tf.DType | None, dtype_hint: tf.DType | None = None) -> tf.Tensor:
  """Return a value as a tensor of real numbers, as TFP does: arrays and lists are cast, tensors are not.

  Args:
    name: name of the argument in the message.
    value: tensor, variable, array, number, or lists of these.
    dtype: floating; None for any.
    dtype_hint: floating, of what has no dtype of its own.

  Raises:
    InputError (a ValueError): for complex numbers, for what is no number, and for a tensor of another dtype.
  """
  import tensorflow as tf

  if isinstance(value, tf.Tensor) and (value.dtype is dtype or (dtype is None and value.dtype.is_floating)):
    return value
  of_value = _dtype_of(value)
  if of_value is not None and of_value.is_complex:
    raise InputError(f"`{name}` must be real numbers, got {of_value.name}")
  check_not_masked(name, value)
  if dtype is None and of_value is not None and of_value.is_floating:
    dtype = of_value
  try:
    tensor = tf.convert_to_tensor(native(value), dtype, dtype_hint=dtype_hint)
  except (ValueError, TypeError):
    if of_value is not None and dtype is not None and not isinstance(value, np.ndarray):
      raise InputError(f"`{name}` must have dtype {dtype.name}, got {of_value.name}") from None
    raise InputError(f"`{name}` must be real numbers of one shape, got {_brief(value)}") from None
  if not tensor.dtype.is_floating:
    raise InputError(f"`{name}` must be real numbers, got {tensor.dtype.name}")
  return tensor


def _dtype_of(value):
  """The dtype of a tensor, variable or array; None if TensorFlow does not know it."""
  import tensorflow as tf

  try:
    return tf.as_dtype(value.dtype)
  except (AttributeError, TypeError):
    return None


def check_event(name: str, shape: Any, event_shape: Any) -> None:
  """Raise an `InputError` unless a `tf.TensorShape` ends with that of an event, which would else be broadcast."""
  if event_shape.rank is None:
    return
  if shape.rank is None:
    raise InputError(f"`{name}` must have shape {_with_batch(event_shape)}, got one of an unknown number of dimensions")
  if shape.rank < event_shape.rank or not shape[shape.rank - event_shape.rank :].is_compatible_with(event_shape):
    raise InputError(f"`{name}` must have shape {_with_batch(event_shape)}, got {[*shape]}")


def _with_batch(event_shape):
  sizes = ", ".join("?" if size is None else str(size) for size in event_shape)
  return f"[..., {sizes}]" if sizes else "[...]"


def _brief(value):
  """A value in one line of a message."""
  text = " ".join(repr(value).split())
  return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


# --- Graphs -------------------------------------------------------------------------------------


class Check(NamedTuple):
  """An assertion of a graph: `message`, which ends in ", got", is followed by `value` where `condition` is false."""

  condition: tf.Tensor
  message: str
  value: tf.Tensor


def with_shape(name: str, tensor: tf.Tensor, expected: Sequence[int | None]) -> tf.Tensor:
  """Return a tensor `[B, ...]` whose shape is `expected`; sizes that a graph does not know are checked when it runs."""
  import tensorflow as tf

  if tensor.shape.rank is not None:
    check_shape(name, [*tensor.shape], expected)
    if tensor.shape[1:].is_fully_defined():
      return tensor
  found, rank = tf.shape(tensor), len(expected)
  same = tf.reduce_all(tf.concat([found, [-1] * rank], axis=0)[1:rank] == expected[1:]) & (tf.size(found) == rank)
  return tf.ensure_shape(checked(tensor, [Check(same, _not_of_shape(name, expected), found)]), expected)


def pixels_are_valid(images: tf.Tensor, levels: int | None) -> tf.Tensor:
  """Return for each value whether it is an integer in 0 .. levels - 1; without levels, whether it is finite."""
  import tensorflow as tf

  values = _wide(images)
  if levels is None:
    return tf.math.is_finite(values) if values.dtype.is_floating else tf.ones_like(values, tf.bool)
  valid = (values >= 0) & (values < levels)
  return valid & (values == tf.floor(values)) if values.dtype.is_floating else valid


def pixel_checks(images: tf.Tensor, levels: int | None) -> list[Check]:
  """Return the checks of images that `check_pixels` makes of arrays; the error shows the first wrong value."""
  import tensorflow as tf

  values, valid = _wide(images), pixels_are_valid(images, levels)
  all_valid, example = tf.reduce_all(valid), tf.boolean_mask(values, ~valid)[:1]
  if levels is None:
    return [Check(all_valid, "`images` must be finite, got", example)]
  divided = tf.reduce_all((values >= 0) & (values <= 1))
  return [
    Check(all_valid | (divided != hint), _not_integers(levels, hint), example)
    for hint in (True, False)  # so that one of them fails
  ]


def _wide(images):
  """Images of a dtype that can be compared with any number of levels, unlike uint8 with 256."""
  import tensorflow as tf

  return images if images.dtype.is_floating else tf.cast(images, tf.int64)


def finite_check(name: str, values: tf.Tensor) -> Check:
  """Return the check of real numbers that `check_all_finite` makes of arrays."""
  import tensorflow as tf

  wrong = ~tf.math.is_finite(values)
  return Check(~tf.reduce_any(wrong), f"`{name}` must be finite, got", tf.boolean_mask(values, wrong)[:1])


def label_checks(labels: tf.Tensor, lowest: int, num_classes: int) -> list[Check]:
  """Return the checks of labels that `check_labels` makes of arrays."""
  import tensorflow as tf

  wrong = (labels < lowest) | (labels >= num_classes)
  return [Check(~tf.reduce_any(wrong), _not_labels(lowest, num_classes), tf.boolean_mask(labels, wrong)[:1])]


def checked(tensor: tf.Tensor, checks: Sequence[Check]) -> tf.Tensor:
  """Return `tensor` once all checks hold. XLA leaves assertions out."""
  import tensorflow as tf

  with tf.control_dependencies([tf.debugging.Assert(check.condition, check[1:]) for check in checks]):
    return tf.identity(tensor)


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
  """Turn the error of a `Check` in a graph that is run within into an `InputError`; others stay as they are."""
  import tensorflow as tf

  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    found: Any = re.search(r"assertion failed: \[(.* must .*, got)\] \[(.*?)\]", error.message)
    if found is None:
      raise
    raise InputError(" ".join(found.groups())) from None

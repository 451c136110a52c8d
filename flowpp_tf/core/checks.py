"""What arguments, images and labels must be: anything else is an error of one line that names the argument.

    @check_arguments
    def sample(model: FlowPlusPlus, n: int, path: Path | None = None, verbose: bool = False): ...

An `int` is an integer, which neither True nor 2.0 is; a `float` is a finite number; a `bool` is True or False, no text.
Arrays of numbers have two functions of their own: `as_array`, and `as_tensor` for TensorFlow.

The values of an array are checked at once, and wrong ones raise an `InputError`. A graph cannot raise one: `checked`
adds an assertion for each `Check`, and `input_errors` turns the error of a failed assertion into an `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import inspect
import math
import os
import re
import types
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, Union, get_args, get_origin

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


F = TypeVar("F", bound=Callable[..., Any])
_KINDS: dict[Any, str] = {
  int: "an integer",
  float: "a number",
  bool: "True or False",
  str: "a string",
  bytes: "bytes",
  BinaryIO: "a binary file",
}
_MOST_SHOWN = 60
MOST = 2**16  # of channels, blocks and sides of images: more is a mistake


def check_arguments(function: F) -> F:
  """Return a function, or a method, whose calls check the arguments by their annotations first.

  Annotations that say nothing of a single value, such as `Any`, `np.ndarray` or `TensorLike`, are not checked.

  Examples:
    >>> from flowpp_tf.core.checks import check_arguments
    >>> @check_arguments
    ... def double(n: int) -> int:
    ...   return 2 * n
    >>> double(1.5)
    Traceback (most recent call last):
      ...
    flowpp_tf.core.errors.InputError: `n` must be an integer, got 1.5
  """
  signature = inspect.signature(function)
  hints: dict[str, Any] = {}

  @functools.wraps(function)
  def call(*args, **kwargs):
    if not hints:
      hints.update(_hints(function))
    for name, value in signature.bind(*args, **kwargs).arguments.items():
      if name in hints:
        check_type(name, value, hints[name])
    return function(*args, **kwargs)

  call.__signature__ = signature  # type: ignore[attr-defined]  # Keras does not look behind a wrapper
  return call  # type: ignore[return-value]


def check_type(name: str, value: Any, hint: Any) -> None:
  """Raise an `InputError` unless a value is what an annotation says.

  Args:
    name: name of the argument in the message.
    value: the value.
    hint: the annotation: a type, or the name of a class that is not imported.
  """
  if not _matches(value, hint):
    if float in _parts(hint) and isinstance(value, (float, np.floating)):
      raise InputError(f"`{name}` must be finite, got {value}")
    raise InputError(f"`{name}` must be {_words(hint)}, got {shown(value)}")


def shown(value: Any) -> str:
  """Return a value as a short text for a message."""
  shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
  if shape is not None and getattr(shape, "rank", 1) is not None and len(shape):
    return f"an array of {getattr(dtype, 'name', dtype)} and shape {tuple(shape)}"
  text = " ".join(repr(value).split())
  return text if len(text) <= _MOST_SHOWN else f"a `{type(value).__name__}`"


def check_count(name: str, value: Any, least: int = 1, most: int = MOST) -> None:
  """Raise an `InputError` unless a value is an integer from `least` to `most`."""
  check_type(name, value, int)
  if not least <= value <= most:
    limits = f"from {least} to {most}" if most < MOST else f"at least {least}" if value < least else f"at most {most:,}"
    raise InputError(f"`{name}` must be {limits}, got {value}")


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, ends: bool = True) -> None:
  """Raise an `InputError` unless a value is a finite number from `low` to `high`; `ends`: whether it may be these."""
  check_type(name, value, float)
  if not (low <= value <= high if ends else low < value < high):
    limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
    raise InputError(f"`{name}` must be {limits if ends or high < math.inf else f'more than {low}'}, got {value}")


def check_shape_of_images(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
  """Return height, width and channels; raise an `InputError` unless a shape is these three."""
  check_type(name, shape, Sequence[int])
  if len(shape) != 3 or not all(1 <= size <= MOST for size in shape):
    raise InputError(f"`{name}` must be (height, width, channels), each from 1 to {MOST:,}, got {tuple(shape)}")
  height, width, channels = map(int, shape)
  return height, width, channels


# --- Annotations --------------------------------------------------------------------------------


def _hints(function):
  """The annotations of a function, those of classes that are not imported as their names."""
  hints = {}
  for name, hint in inspect.get_annotations(function).items():
    if isinstance(hint, str):
      try:
        hint = eval(hint, function.__globals__)
      except (NameError, TypeError):  # imported for type checkers only
        pass
    hints[name] = hint
  several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
  single = {p.name for p in inspect.signature(function).parameters.values() if p.kind not in several}
  return {name: hint for name, hint in hints.items() if name in single and _is_checked(hint)}


def _parts(hint):
  if isinstance(hint, str):
    return [part.strip().strip("\"'") for part in hint.split("|")]
  return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_checked(hint):
  """Whether an annotation says what a single value must be."""
  parts = _parts(hint)
  if Any in parts:
    return False
  arrays = any(getattr(part, "__name__", "") == "ndarray" for part in parts)  # of `TensorLike`, too
  seed = any("tf.Tensor" in repr(part) for part in parts)  # the alias `Seed`; `as_seed` checks those
  return not (arrays or seed) and all(map(_is_one_kind, parts))


def _is_one_kind(part):
  """Whether a part of an annotation is a class, the name of one, None, or a collection."""
  if origin := get_origin(part):  # on Python 3.10 `Iterable[int]` is a `type` too
    return origin in (Callable, *_COLLECTIONS)
  return part is None or isinstance(part, (type, str))


_COLLECTIONS = (Mapping, dict, Sequence, list, tuple)


def _matches(value, hint):
  parts = _parts(hint)
  return any(_is(value, part, parts) for part in parts)


def _is(value, part, parts=()):
  """Whether a value is of one part of an annotation."""
  if part in (None, "None"):
    return value is None
  if isinstance(part, str):
    return any(cls.__name__ == part.rpartition(".")[2] for cls in type(value).__mro__)
  if part is str and os.PathLike in parts:
    return isinstance(value, str) and bool(value) and "\0" not in value
  origin = get_origin(part) or part
  if origin in _IS:
    return _IS[origin](value)
  if origin in (Sequence, list, tuple):
    return _is_sequence(value, get_args(part)[:1])
  if hasattr(part, "dim_str"):
    return _has_dtype_and_rank(value, part)
  if part.__name__ == "Tensor":
    return _is_scalar_tensor(value, of_integers=int in parts)
  if getattr(part, "_is_protocol", False):
    return all(hasattr(value, name) for name in vars(part) if not name.startswith("_"))
  return isinstance(value, part)


def _is_integer(value):
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value):
  real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
  return real and math.isfinite(value)


_IS: dict[Any, Callable[[Any], bool]] = {
  int: _is_integer,
  float: _is_number,
  bool: lambda value: isinstance(value, (bool, np.bool_)),
  Callable: callable,
  Mapping: lambda value: isinstance(value, Mapping),
  dict: lambda value: isinstance(value, Mapping),
  BinaryIO: lambda value: hasattr(value, "read") or hasattr(value, "write"),
}


def _is_scalar_tensor(value, of_integers):
  dtype: Any = getattr(value, "dtype", None)
  rank = getattr(getattr(value, "shape", None), "rank", "no tensor")
  return rank in (0, None) and (dtype.is_integer or (dtype.is_floating and not of_integers))


def _has_dtype_and_rank(tensor, hint):
  """Whether a tensor is what a type of jaxtyping says, except for its sizes, which a graph may not know."""
  name, shape = getattr(getattr(tensor, "dtype", None), "name", None), getattr(tensor, "shape", None)
  rank, (least, most) = getattr(shape, "rank", 0 if shape is None else len(shape)), _ranks(hint)
  real = name in hint.dtypes and not str(name).startswith("complex")
  return real and (rank is None or least <= rank <= most)


def _ranks(hint):
  """The least and the largest number of dimensions that a type of jaxtyping allows."""
  sizes = hint.dim_str.split()
  several = [size for size in sizes if size == "..." or size.startswith("*")]
  return len(sizes) - len(several), math.inf if several else len(sizes)


def _is_sequence(value, item):
  if isinstance(value, (str, bytes, Mapping)) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
    return False
  if len(getattr(value, "shape", [0])) != 1:  # an array that is no vector
    return False
  if not item or item[0] not in _KINDS:
    return True
  return all(_is(part, item[0]) for part in value)


def _words(hint):
  """What an annotation asks for."""
  parts = _parts(hint)
  if os.PathLike in parts:
    parts = ["a path", *(part for part in parts if part not in (str, os.PathLike))]
  words = [_word(part) for part in parts]
  return " or ".join(dict.fromkeys(words))


def _word(part):
  if part in (None, "None", types.NoneType):
    return "None"
  if part == "a path":
    return part
  if part in _KINDS:
    return _KINDS[part]
  origin, name = get_origin(part), part if isinstance(part, str) else part.__name__
  if hasattr(part, "dim_str"):
    kind = next(kind for kind in ("float", "int", "bool") if any(dtype.startswith(kind) for dtype in part.dtypes))
    return f"a {kind} tensor [{', '.join(part.dim_str.split())}]"
  if name == "Tensor":
    return "a scalar tensor"
  if origin is Callable:
    return "callable"
  if origin in (Mapping, dict):
    return "a mapping"
  if origin in (Sequence, list, tuple):
    of = {int: " of integers", float: " of numbers", str: " of strings"}.get((get_args(part) or (None,))[0], "")
    return f"a sequence{of}"
  return f"a `{name}`"


# --- Arrays of numbers --------------------------------------------------------------------------


def as_array(name: str, value: Any, shape: Sequence[int | None] | None = None) -> np.ndarray:
  """Return a value as an array of real numbers.

  Args:
    name: name of the argument in messages.
    value: array, list or number.
    shape: its shape, None for a size that may be any; None for any shape.

  Returns:
    An array in the byte order of this machine.

  Raises:
    InputError (a ValueError): for anything else: complex numbers, texts, ragged lists, None, another shape.
  """
  check_not_masked(name, value)
  try:
    array = np.asarray(value)
  except Exception:  # a ragged list, a tensor that is no array
    raise InputError(f"`{name}` must be an array of numbers, got {shown(value)}") from None
  if array.dtype.kind not in "biuf" and array.dtype.name not in ("bfloat16",):
    found = shown(value) if array.dtype.kind == "O" or array.ndim == 0 else array.dtype
    raise InputError(f"`{name}` must hold real numbers, got {found}")
  if shape is not None:
    check_shape(name, array.shape, shape, "N")
  return native(array)


def as_tensor(name: str, value: Any, dtype: tf.DType | str | None = None) -> tf.Tensor:
  """Return a value as a tensor of real numbers, by TFP's rule: arrays and lists are cast, tensors are not.

  Args:
    name: name of the argument in messages.
    value: tensor, variable, array, list or number.
    dtype: floating; None for any dtype of real numbers, that of the value.

  Raises:
    InputError (a ValueError): for other values, and for a tensor of another dtype.
  """
  import tensorflow as tf

  if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
    raise InputError(f"`{name}` must be a dense tensor, got a `{type(value).__name__}`")
  is_tensor = lambda part: tf.is_tensor(part) or hasattr(part, "__tf_tensor__")  # the latter of Keras variables
  if not any(map(is_tensor, value if isinstance(value, (list, tuple)) else [value])):
    array = as_array(name, value)
    # Without a wanted dtype TensorFlow chooses that of a list, which is narrower than NumPy's.
    return tf.convert_to_tensor(native(value) if dtype is None and _fits_32_bits(array) else array, dtype)
  tensor = tf.convert_to_tensor(value)
  wanted = None if dtype is None else tf.as_dtype(dtype)
  if wanted not in (None, tensor.dtype):
    raise InputError(f"`{name}` must be of dtype {wanted.name}, got a tensor of {tensor.dtype.name}")
  if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
    raise InputError(f"`{name}` must hold real numbers, got {tensor.dtype.name}")
  return tensor


def _fits_32_bits(array):
  return array.dtype.kind not in "iu" or not array.size or -(2**31) <= array.min() <= array.max() < 2**31


def as_dtype(name: str, value: Any) -> tf.DType:
  """Return a floating dtype of TensorFlow; raise an `InputError` for anything else."""
  import tensorflow as tf

  if isinstance(value, (str, type, tf.DType, np.dtype)):
    with contextlib.suppress(TypeError):
      dtype = tf.as_dtype(value)
      if dtype.is_floating:
        return dtype
  raise InputError(f"`{name}` must be a floating dtype, got {shown(value)}")


def as_sample_shape(name: str, value: Any) -> Any:
  """Return the shape of the samples of a TFP distribution: an integer, several, or an integer tensor.

  Raises:
    InputError (a ValueError): for anything else; TFP would round 1.5 down.
  """
  import tensorflow as tf

  parts = value if isinstance(value, (list, tuple)) else [value]
  if not isinstance(value, tf.TensorShape) and not all(_are_sizes(part, 0 if parts is value else 1) for part in parts):
    raise InputError(f"`{name}` must be integers of at least 0, got {shown(value)}")
  return value


def _are_sizes(value, most_ndims):
  """Whether a value is an integer of at least 0, or an array or tensor of them; a graph knows only its dtype."""
  if hasattr(value, "graph"):
    return value.dtype.is_integer
  array = np.asarray(value)
  return array.ndim <= most_ndims and array.dtype.kind in "iu" and bool(np.all((array >= 0) & (array < 2**31)))

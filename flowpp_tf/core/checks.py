"""Check arguments, images and labels: anything wrong is an error of one line that names the argument.

    @check_arguments
    def sample(model: FlowPlusPlus, n: int, path: Path | None = None, verbose: bool = False): ...

An `int` is an integer, which neither True nor 2.0 is. A `float` is a finite number, and a `bool` is True or False.
`as_array` checks arrays of numbers, and `as_tensor` makes tensors of them.

A value is checked once, where a user hands it in. Values in a graph cannot be seen: a wrong one becomes NaN.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import inspect
import math
import os
import types
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, Union, get_args, get_origin

import numpy as np

from flowpp_tf.core.errors import InputError

if TYPE_CHECKING:  # decoding an archive runs without TensorFlow
  import tensorflow as tf

F = TypeVar("F", bound=Callable[..., Any])
MOST_LEVELS = 1 << 16  # pixel values of 16 bits
MOST = 2**16  # channels, blocks, or pixels of a side: more is a mistake
INT32_MAX = 2**31 - 1  # the largest integer that becomes a tensor
_MOST_SHOWN = 60  # characters of a value in a message

# --- Types --------------------------------------------------------------------------------------


def check_arguments(function: F) -> F:
  """Return a function, or a method, that checks its arguments against their annotations first.

  Annotations that do not describe a single value, such as `Any`, `np.ndarray` or `TensorLike`, are not checked.

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
    if not hints:  # classes that a module defines below the function are known now
      hints.update(_hints(function))
    for name, value in signature.bind(*args, **kwargs).arguments.items():
      if name in hints:
        check_type(name, value, hints[name])
    return function(*args, **kwargs)

  call.__signature__ = signature  # type: ignore[attr-defined]  # Keras does not look behind a wrapper
  return call  # type: ignore[return-value]


def check_type(name: str, value: Any, hint: Any) -> None:
  """Raise an `InputError` unless a value has the type of an annotation.

  Args:
    name: name of the argument in the message.
    value: the value.
    hint: the annotation: a type, or a type variable with the name of a class that is not imported.
  """
  kinds = _kinds(hint)
  if not any(accepts(value) for accepts, _ in kinds):
    expected = " or ".join(dict.fromkeys(words for _, words in kinds))
    raise InputError(f"`{name}` must be {expected}, got {shown(value)}")


def shown(value: Any) -> str:
  """Return a value as a short text for a message."""
  shape = getattr(value, "shape", None)
  dtype = getattr(value, "dtype", None)
  type_name = f"a `{type(value).__name__}`"
  if shape is not None and getattr(shape, "rank", 1) is not None and len(shape):
    if dtype is None:
      return f"{type_name} of shape {tuple(shape)}"
    return f"an array of {getattr(dtype, 'name', dtype)} and shape {tuple(shape)}"
  text = " ".join(repr(value).split())
  return text if len(text) <= _MOST_SHOWN else type_name


def is_integer(value: Any) -> bool:
  """Return whether a value is an integer of Python or NumPy; True is not one."""
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
  """Return whether a value is a finite real number of Python or NumPy."""
  return (is_integer(value) or isinstance(value, (float, np.floating))) and math.isfinite(value)


def check_count(name: str, value: Any, low: int = 1, high: int = MOST) -> None:
  """Raise an `InputError` unless a value is an integer from `low` to `high`."""
  check_type(name, value, int)
  if value < low:
    raise InputError(f"`{name}` must be at least {low}, got {value}")
  if value > high:
    raise InputError(f"`{name}` must be at most {high:,}, got {value}")


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, ends: bool = True) -> None:
  """Raise an `InputError` unless a value is a finite number from `low` to `high`, both included if `ends`."""
  check_type(name, value, float)
  if low < value < high or (ends and value in (low, high)):
    return
  limits = f"more than {low}"
  if high < math.inf:
    limits = f"between {low} and {high}"
  elif ends:
    limits = f"at least {low}"
  raise InputError(f"`{name}` must be {limits}, got {value}")


class _Names(dict):
  """The names that annotations use; a class that only type checkers import becomes a type variable of that name."""

  def __missing__(self, name):
    return TypeVar(name)


def _hints(function):
  """Return the annotation of each argument that is a single value."""
  names = _Names({**vars(builtins), **function.__globals__})
  parameters = inspect.signature(function, locals=names, eval_str=True).parameters.values()
  annotated = [parameter for parameter in parameters if parameter.annotation is not parameter.empty]
  several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
  return {parameter.name: parameter.annotation for parameter in annotated if parameter.kind not in several}


# Whether a value is of a kind, and the words for the kind in a message.
_Kind = tuple[Callable[[Any], bool], str]
_KINDS: dict[Any, _Kind] = {
  int: (is_integer, "an integer"),
  float: (is_number, "a finite number"),
  bool: (lambda value: isinstance(value, (bool, np.bool_)), "True or False"),
  str: (lambda value: isinstance(value, str), "a string"),
  dict: (lambda value: isinstance(value, Mapping), "a mapping"),
  BinaryIO: (lambda value: hasattr(value, "read") or hasattr(value, "write"), "a binary file"),
  os.PathLike: (lambda value: isinstance(value, os.PathLike) or _is_path(value), "a path"),
  types.NoneType: (lambda value: value is None, "None"),
}
_ITEMS = {int: " of integers", float: " of numbers", str: " of strings"}


@functools.cache
def _kinds(hint):
  """Return the kinds of value that an annotation allows."""
  parts = [hint]
  if get_origin(hint) in (Union, types.UnionType):
    parts = [*get_args(hint)]
  if os.PathLike in parts:  # a text is a path, too
    parts.remove(str)
  return [_kind(part, int in parts) for part in parts]


def _kind(part, only_integers):
  """Return the kind of a part of an annotation; `only_integers`: whether a scalar tensor must hold an integer."""
  origin = get_origin(part) or part
  if origin in _KINDS:
    return _KINDS[origin]
  if origin in (Sequence, list, tuple):
    item = next(iter(get_args(part)), Any)
    is_item, _ = _kind(item, False)
    return functools.partial(_is_sequence, is_item=is_item), f"a sequence{_ITEMS.get(item, '')}"
  if isinstance(part, TypeVar):
    return functools.partial(_has_class, class_name=part.__name__), _with_article(part.__name__)
  has_own_check = origin in (Any, np.ndarray, types.UnionType) or hasattr(part, "dim_str")  # the latter: jaxtyping's
  if has_own_check or not isinstance(origin, type):
    return lambda value: True, "anything"
  if origin.__name__ == "Tensor":
    return functools.partial(_is_scalar_tensor, only_integers=only_integers), "a scalar tensor"
  if getattr(origin, "_is_protocol", False):
    members = [name for name in vars(origin) if not name.startswith("_")]
    class_name = origin.__name__.removesuffix("Like")
    return lambda value: all(hasattr(value, name) for name in members), _with_article(class_name)
  return lambda value: isinstance(value, origin), _with_article(origin.__name__)


def _with_article(class_name):
  article = "an" if class_name[0] in "AEIOU" else "a"
  return f"{article} `{class_name}`"


def _has_class(value, class_name):
  return any(cls.__name__ == class_name for cls in type(value).__mro__)


def _is_path(value):
  return isinstance(value, str) and bool(value) and "\0" not in value


def _is_sequence(value, is_item):
  has_items = hasattr(value, "__len__") and hasattr(value, "__getitem__")
  if not has_items or isinstance(value, (str, bytes, Mapping)):
    return False
  return len(getattr(value, "shape", [0])) == 1 and all(map(is_item, value))  # no array that is not a vector


def _is_scalar_tensor(value, only_integers):
  dtype: Any = getattr(value, "dtype", None)
  rank = getattr(getattr(value, "shape", None), "rank", "no tensor")
  return rank in (0, None) and (dtype.is_integer or (dtype.is_floating and not only_integers))


# --- Arrays and tensors -------------------------------------------------------------------------


def as_array(name: str, value: Any, shape: Sequence[int | str | None] | None = None) -> np.ndarray:
  """Return a value as an array of real numbers.

  Args:
    name: name of the argument in messages.
    value: array, list or number.
    shape: its shape, as in `check_shape`; None for any shape.

  Returns:
    An array in the byte order of this machine.

  Raises:
    InputError (a ValueError): for anything else: complex numbers, texts, ragged lists, None, another shape.
  """
  check_not_masked(name, value)
  try:
    array = np.asarray(value)
  except Exception:  # a ragged list, a tensor of a graph
    got = shown(value)
    if _is_ragged(value):
      got = "parts of different shapes"
    raise InputError(f"`{name}` must be an array of numbers, got {got}") from None
  if array.dtype.kind == "O" and _has_real_columns(value):  # of pandas' dtypes with missing values
    array = value.to_numpy(np.float64, na_value=np.nan)
  if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
    raise InputError(f"`{name}` must hold real numbers, got {shown(value)}")
  if shape is not None:
    check_shape(name, array.shape, shape, "N")
  return native(array)


def as_tensor(
  name: str, value: Any, dtype: tf.DType | str | None = None, dtype_hint: tf.DType | None = None
) -> tf.Tensor:
  """Return a value as a tensor of real numbers, by TFP's rule: arrays and lists are cast, tensors are not.

  Args:
    name: name of the argument in messages.
    value: tensor, variable, array, list or number.
    dtype: floating; None to keep the value's dtype, which may be any one of real numbers.
    dtype_hint: floating, for values without a floating dtype of their own; tensors of integers are then an error.

  Raises:
    InputError (a ValueError): for other values, and for a tensor of another dtype.
  """
  import tensorflow as tf

  wanted = None if dtype is None else tf.as_dtype(dtype)
  if isinstance(value, tf.Tensor):
    if value.dtype is wanted or (wanted is None and value.dtype.is_floating):
      return value
  if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
    raise InputError(f"`{name}` must be a dense tensor, got a `{type(value).__name__}`")
  # To `tf.is_tensor`, Keras variables are not tensors.
  if not any(tf.is_tensor(part) or hasattr(part, "__tf_tensor__") for part in _parts(value)):
    return _array_to_tensor(as_array(name, value), value, wanted, dtype_hint)
  try:
    tensor = tf.convert_to_tensor(value)
  except (TypeError, ValueError, tf.errors.InvalidArgumentError):
    raise InputError(f"`{name}` must be tensors of one dtype and shape, got {shown(value)}") from None
  if wanted not in (None, tensor.dtype):
    raise InputError(f"`{name}` must be of dtype {wanted.name}, got a tensor of {tensor.dtype.name}")
  holds_integers = tensor.dtype.is_integer or tensor.dtype.is_bool
  if not (tensor.dtype.is_floating or (holds_integers and dtype_hint is None)):
    raise InputError(f"`{name}` must hold real numbers, got {tensor.dtype.name}")
  return tensor


def _array_to_tensor(array, value, wanted, dtype_hint):
  """Return the tensor of a value whose array is `array`."""
  import tensorflow as tf

  if array.dtype == np.longdouble:  # TensorFlow has none
    value = array = array.astype(np.float64)
  has_floating_dtype = hasattr(value, "dtype") and tf.as_dtype(array.dtype).is_floating
  if wanted is None and not has_floating_dtype:
    wanted = dtype_hint
  if wanted is None and _fits_32_bits(array):  # TensorFlow gives a list a narrower dtype than NumPy
    return tf.convert_to_tensor(native(value))
  return tf.convert_to_tensor(array, wanted)


def _parts(value):
  """Return the items of a list or a tuple; any other value is its only part."""
  return value if isinstance(value, (list, tuple)) else [value]


def _is_ragged(value):
  if not isinstance(value, (list, tuple)):
    return False
  shapes = {getattr(part, "shape", np.size(part)) for part in value}
  return len(shapes) > 1


def _has_real_columns(value):
  """Return whether a value is a table or a column of pandas that holds only real numbers."""
  if not hasattr(value, "to_numpy") or not hasattr(value, "dtypes"):
    return False
  dtypes: Any = value.dtypes
  if not hasattr(dtypes, "__iter__"):  # a column has its dtype there
    dtypes = [dtypes]
  return all(getattr(dtype, "kind", "O") in "biuf" for dtype in dtypes)


def _fits_32_bits(array):
  if array.dtype.kind not in "iu" or not array.size:
    return True
  return array.min() >= -(2**31) and array.max() <= INT32_MAX


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

  if isinstance(value, (list, tuple)):
    is_shape = all(_are_sizes(size, most_ndims=0) for size in value)
  else:
    is_shape = isinstance(value, tf.TensorShape) or _are_sizes(value, most_ndims=1)
  if not is_shape:
    raise InputError(f"`{name}` must be integers of at least 0, got {shown(value)}")
  return value


def _are_sizes(value, most_ndims):
  """Return whether a value is an integer of at least 0, or an array of such; of a graph's tensor only dtypes count."""
  if hasattr(value, "graph"):
    return value.dtype.is_integer
  array = np.asarray(value)
  if array.ndim > most_ndims or array.dtype.kind not in "iu":
    return False
  return bool(np.all((array >= 0) & (array <= INT32_MAX)))


def native(value: Any) -> Any:
  """Return an array, or a list of arrays, in the byte order of this machine; anything else is returned unchanged.

  TensorFlow ignores the byte order and would read other numbers. Arrays of FITS files have another order.
  """
  if isinstance(value, (list, tuple)):
    return [native(part) for part in value]
  if isinstance(value, np.ndarray) and not value.dtype.isnative:
    return value.astype(value.dtype.newbyteorder("="))
  return value


def check_not_masked(name: str, value: Any) -> None:
  """Raise an `InputError` for a masked array, or a list of them: as an array it would lose its mask."""
  if any(isinstance(part, np.ma.MaskedArray) for part in _parts(value)):
    raise InputError(f"`{name}` must not be a masked array: give it without the masked rows, or `.filled(value)`")


def check_shape(name: str, shape: Any, expected: Sequence[Any], batch: str = "B") -> None:
  """Raise an `InputError` unless a shape is the expected one.

  Args:
    name: name of the argument in the message.
    shape: shape that was found; None stands for a size that is not known.
    expected: shape that it must be. A letter, which the message shows, or None stands for any size, and `...` in front
      for any number of sizes.
    batch: name in the message for a size of None.
  """
  is_known = getattr(shape, "rank", 0) is not None
  if is_known and _has_shape([*shape], expected):
    return
  words = {...: "...", None: batch}
  sizes = ", ".join(words.get(size, str(size)) for size in expected)
  if not is_known:
    raise InputError(f"`{name}` must be of shape [{sizes}], got one of an unknown number of dimensions")
  hint = ""
  if len(shape) == 1 and len(expected) == 2 and expected[0] is not ...:
    hint = ": a single column has shape [N, 1]"
  raise InputError(f"`{name}` must be of shape [{sizes}], got {shape}{hint}")


def _has_shape(sizes, expected):
  """Return whether sizes are the expected ones, as in `check_shape`."""
  fixed = [size for size in expected if size is not ...]
  if len(fixed) < len(expected):
    sizes = sizes[max(0, len(sizes) - len(fixed)) :]
  if len(sizes) != len(fixed):
    return False
  is_any = lambda size: size is None or isinstance(size, str)
  return all(size == other or is_any(size) or is_any(other) for size, other in zip(sizes, fixed))


def check_tensor(name: str, tensor: Any, shape: Sequence[Any], kind: str = "floating") -> None:
  """Raise an `InputError` unless an argument of a Keras layer is a tensor of a kind of numbers and of a shape.

  Args:
    name: name of the argument in the message.
    tensor: what Keras hands to the layer.
    shape: as in `check_shape`.
    kind: "floating", "integer", or "real" for both.
  """
  import tensorflow as tf

  is_valid = False
  if isinstance(tensor, (tf.Tensor, tf.Variable)):
    has_floating_kind = tensor.dtype.is_floating and kind != "integer"
    is_valid = has_floating_kind or (tensor.dtype.is_integer and kind != "floating")
  if not is_valid:
    raise InputError(f"`{name}` must be a tensor of {kind} numbers, got {shown(tensor)}")
  check_shape(name, tensor.shape, shape, "?")


def check_event(name: str, shape: tf.TensorShape, event_shape: tf.TensorShape) -> None:
  """Raise an `InputError` unless a shape ends with an event's shape: other events would be broadcast."""
  if event_shape.rank is not None:
    check_shape(name, shape if shape.rank is None else [*shape], [..., *event_shape], "?")


def check_shape_of_images(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
  """Return height, width and channels; raise an `InputError` unless a shape is these three."""
  check_type(name, shape, Sequence[int])
  if len(shape) != 3 or not all(1 <= size <= MOST for size in shape):
    raise InputError(f"`{name}` must be (height, width, channels), each from 1 to {MOST:,}, got {tuple(shape)}")
  return int(shape[0]), int(shape[1]), int(shape[2])


# --- Values, where they can be seen -------------------------------------------------------------


def check_all_finite(name: str, values: np.ndarray | tf.Tensor) -> None:
  """Raise an `InputError` for NaN and infinity, where values can be seen: in arrays, and in eager mode."""
  seen = _seen(values)
  if seen is not None and not np.all(np.isfinite(seen)):
    wrong = ~np.isfinite(seen)
    first = ""
    if wrong.ndim == 4:
      first = f", the first in image {np.argmax(wrong.any(axis=(1, 2, 3)))}"
    raise InputError(f"`{name}` must be finite, got {np.sum(wrong)} values that are NaN or infinite{first}")


def check_uniform_noise(name: str, values: np.ndarray | tf.Tensor) -> None:
  """Raise an `InputError` for values outside of [0, 1), which no uniform noise has, where values can be seen."""
  seen = _seen(values)
  if seen is not None and seen.size and not (seen.min() >= 0 and seen.max() < 1):
    raise InputError(f"`{name}` that is uniform must lie in [0, 1), got values from {seen.min()} to {seen.max()}")


def _seen(values):
  """Return values as an array, or None where they cannot be seen: in a graph."""
  if hasattr(values, "numpy"):
    values = values.numpy()
  if isinstance(values, np.ndarray):
    return values
  return None


def pixel_dtype(levels: int) -> np.dtype:
  """Return the dtype of images with so many pixel values: uint8 up to 256, uint16 up to 65,536.

  Raises:
    InputError (a ValueError): for another number of levels.
  """
  check_count("levels", levels, 2, MOST_LEVELS)
  return np.dtype(np.uint8 if levels <= 256 else np.uint16)


def real_dtype(dtype: np.dtype) -> np.dtype:
  """Return the dtype of real-valued images that were stored in another one: float32 if it has all their values."""
  return np.dtype(np.float32 if np.can_cast(dtype, np.float32, "safe") else np.float64)


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
  holds_integers = images.dtype.kind in "biu"  # NumPy does not know that bfloat16 is floating
  if not holds_integers:
    check_all_finite(name, images)
  low = images.min()
  high = images.max()
  if not holds_integers:
    fractional = images[images != np.floor(images)]
    if len(fractional):
      hint = ""
      if low >= 0 and high <= 1:
        hint = ", not scaled to 0 .. 1 (did you divide by 255?)"
      raise InputError(f"`{name}` must be integers in 0 .. {levels - 1}{hint}, got {fractional[0]}")
  if low < 0 or high >= levels:
    raise InputError(f"`{name}` must lie in 0 .. {levels - 1} ({levels} levels), got values from {low} to {high}")


def pixels_are_valid(images: tf.Tensor, levels: int | None) -> tf.Tensor:
  """Return for each value whether it is an integer in 0 .. levels - 1, or finite if `levels` is None."""
  import tensorflow as tf

  values = tf.cast(images, tf.float64)  # any number of levels can be compared with it, unlike 256 with uint8
  if levels is None:
    return tf.math.is_finite(values)
  return (values >= 0) & (values < levels) & (values == tf.floor(values))


def check_labels(labels: np.ndarray, lowest: int, num_classes: int, of: str = "", hint: str = "") -> None:
  """Raise an `InputError` unless all labels lie in lowest .. num_classes - 1.

  Args:
    labels: integers of any shape.
    lowest: -1 if images may be without a label, else 0.
    num_classes: number of classes.
    of: words of the message that say whose labels they are.
    hint: words at the end of the message.
  """
  if np.any((labels < lowest) | (labels >= num_classes)):
    classes = ""
    if of:
      classes = f" ({num_classes} classes)"
    values = f"values from {np.min(labels)} to {np.max(labels)}"
    raise InputError(f"`labels`{of} must lie in {lowest} .. {num_classes - 1}{classes}, got {values}{hint}")

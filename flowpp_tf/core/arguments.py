"""What arguments must be, by their annotations: anything else is an error of one line that names the argument.

    @check_arguments
    def sample(model: FlowPlusPlus, n: int, path: Path | None = None, verbose: bool = False): ...

An `int` is an integer, which neither True nor 2.0 is; a `float` is a finite number; a `bool` is True or False, no text.
Arrays of numbers have two functions of their own: `as_array`, and `as_tensor` for TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import inspect
import math
import os
import types
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, Union, get_args, get_origin

import numpy as np

from flowpp_tf.core.checks import check_not_masked, check_shape, native
from flowpp_tf.core.errors import InputError

if TYPE_CHECKING:  # decoding an archive runs without TensorFlow
  import tensorflow as tf

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
    >>> from flowpp_tf.core.arguments import check_arguments
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

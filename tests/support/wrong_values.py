"""Wrong values of an argument, by what the argument is: a tensor of real numbers, images, a count, a path, ...

Each kind is a function of a valid value that returns an `Argument`. A wrong value must be refused by an error that
names the argument, or give what its rule says:

    REFUSED    nothing: a result is an acceptance in silence
    same(v)    the result of the valid value v, which it means by the rules of TFP: arrays and lists are cast
    NAN        the result of the valid value, with NaN where a number follows from the NaN in it
    CONSTANT   the same, where no number need follow from it, as in a log-det that is constant
    INFINITE   the same with NaN, an infinity, or the limit
    EMPTY      the result of the valid value, without examples
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

REFUSED, NAN, CONSTANT, INFINITE, EMPTY = "refused", "nan", "constant", "infinite", "empty"


class Same(NamedTuple):
  value: Any


same = Same


class Wrong(NamedTuple):
  """A wrong value and its rule; `value` is a function, which makes another one in each call."""

  name: str
  value: Callable[[], Any]
  rule: Any = REFUSED


class Argument(NamedTuple):
  """A valid value, the wrong ones, and other names that the argument has in messages."""

  valid: Any  # or a function of the `World`
  wrong: Callable[[Any], Iterator[tuple]]  # valid value -> (name, value, rule)
  names: tuple[str, ...] = ()
  optional: bool = False
  without: tuple[str, ...] = ()  # names of wrong values that are right here
  more: tuple = ()

  def values(self, valid):
    """The wrong values, given the valid one."""
    for name, value, *rule in (*self.wrong(valid), *self.more):
      if not (name == "None" and self.optional or name in self.without):
        yield Wrong(name, value if callable(value) and name != "function" else lambda value=value: value, *rule)

  def named(self, *names):
    return self._replace(names=(*self.names, *names))

  def but(self, *names):
    return self._replace(without=(*self.without, *names))

  def also(self, *more):
    return self._replace(more=(*self.more, *more))


def optional(argument):
  """The argument, for which None is right."""
  return argument._replace(optional=True)


def kind(wrong):
  """Decorator of the wrong values of a valid one: a function that returns the argument of a valid value."""
  return lambda valid, *args, **kwargs: Argument(valid, lambda value: wrong(value, *args, **kwargs))


class _Object:
  """An object of no use, whose text is short."""

  def __repr__(self):
    return "<object>"


def _foreign():
  """What is neither a number, nor an array, nor a text."""
  yield "None", None
  yield "dict", {"a": 1}
  yield "object", _Object()
  yield "generator", lambda: (i for i in [1])


# --- Arrays -------------------------------------------------------------------------------------


def _not_numbers(valid):
  array = np.asarray(valid)
  yield from _foreign()
  yield "text", "a"
  yield "texts", np.full(array.shape, "a")
  yield "objects", np.full(array.shape, _Object())
  yield "list of None", [None, None]
  yield "ragged list", [[1, 2], [1]]
  yield "ragged tensor", lambda: tf.ragged.constant([[1, 2], [1]])
  yield "masked", np.ma.masked_array(array, mask=np.ones_like(array, bool))
  yield "complex", array.astype(np.complex64) + 1j
  yield "complex list", (array.astype(np.complex64) + 1j).tolist()
  yield "complex tensor", lambda: tf.constant(array.astype(np.complex64))


def _sizes(array, event):
  """Arrays whose last `event` dimensions have other sizes, or are fewer."""
  for axis in range(array.ndim - event, array.ndim):
    short = np.take(array, [0], axis)
    if array.shape[axis] > 1:
      yield f"size 1 of axis {axis}", short
    yield f"size + 1 of axis {axis}", np.concatenate([array, short], axis)
    yield f"size 0 of axis {axis}", np.take(array, [], axis)
  if event:
    yield "an axis too few", array[..., 0]
    yield "a number", array.ravel()[0]


def real_values(valid, event=None, batch=None, finite=False, cast=None):
  """A tensor of real numbers whose last `event` dimensions are fixed: all but the first if it is None.

  `batch`: the number of dimensions before them, None for any; `finite`: whether NaN and infinity are refused; `cast`:
  which tensors of another dtype are cast, "floats" as by Keras, "all" as by NumPy, "" none as by TensorFlow; if it is
  None, all of finite numbers, which are data, and none of others.
  """
  array = np.asarray(valid)
  dtype, other = ("float64", "float32") if array.dtype == np.float64 else ("float32", "float64")
  array = array.astype(dtype)
  event = max(array.ndim - 1, 0) if event is None else event
  yield from _not_numbers(array)
  cast = ("all" if finite else "") if cast is None else cast
  of_floats, of_others = cast in ("floats", "all"), cast == "all"
  half, whole, positive = array.astype(np.float16), np.round(array), array > 0
  for name, value, meaning, is_cast in (
    ("another dtype", array.astype(other), array, of_floats),
    ("float16", half, half.astype(dtype), of_floats),
    ("integer", whole.astype(np.int32), whole, of_others),
    ("boolean", positive, positive.astype(dtype), of_others),
  ):
    yield f"{name} tensor", lambda value=value: tf.constant(value), same(meaning) if is_cast else REFUSED
    yield f"{name} array", value, same(meaning)
  yield "list", array.tolist(), same(array)
  yield "array of objects", array.astype(object), same(array)
  yield "list of integers", whole.astype(int).tolist(), same(whole)
  yield from _sizes(array, event)
  if batch is not None:
    yield "an axis too many", array[np.newaxis, np.newaxis]
  if array.ndim > event:
    yield "no examples", array[:0], EMPTY
  for name, number, rule in (("NaN", np.nan, NAN), ("infinite", np.inf, INFINITE), ("-infinite", -np.inf, INFINITE)):
    changed = array.copy()
    changed.flat[-1 if array.ndim == event else int(np.prod(array.shape[array.ndim - event :])) - 1] = number
    yield name, changed, REFUSED if finite else rule


real = kind(real_values)


def data(valid):
  """Finite numbers: examples side by side."""
  return real(valid, batch=1, finite=True)


@kind
def images(valid, levels, exact=True):
  """Integer images `[N, H, W, C]`; `exact`: whether their size is fixed."""
  array = np.asarray(valid)
  floats = array.astype(np.float32)
  yield from _not_numbers(array)
  yield "integers as floats", floats, same(array)
  yield "integers as doubles", floats.astype(np.float64), same(array)
  yield "int64", array.astype(np.int64), same(array)
  yield "list", array.tolist(), same(array)
  yield "booleans", array > 0, same((array > 0).astype(array.dtype))
  yield "divided", floats / 255
  yield "divided doubles", array / 255.0
  yield "fractional", floats + 0.5
  yield "list of fractions", (floats + 0.5).tolist()
  yield "fractional tensor", lambda: tf.constant(floats + 0.5)
  yield "negative", array.astype(np.int64) - levels - 1
  yield "negative floats", floats - levels - 1
  yield "too large", array.astype(np.int64) + levels
  if levels < 200:
    yield "too large uint8", (array + 200).astype(np.uint8)
  for name, number in (("NaN", np.nan), ("infinite", np.inf), ("-infinite", -np.inf)):
    changed = floats.copy()
    changed.flat[0] = number
    yield name, changed
  yield "no images", array[:0]
  yield "an axis too few", array[..., 0]
  yield "one image", array[0]
  yield "an axis too many", array[np.newaxis]
  yield "a number", 1
  yield "size 0", array[:, :0]
  if exact:
    yield "another height", array[:, :2]
    yield "another width", array[:, :, :1]
    yield "another number of channels", np.concatenate([array, array], axis=-1)
    yield "transposed", np.moveaxis(array, -1, 1)


@kind
def labels(valid, classes, lowest=0, one=True):
  """Class labels `[N]` in lowest .. classes - 1; `one`: whether one is for all."""
  array = np.asarray(valid)
  yield from _not_numbers(array)
  yield "int64", array.astype(np.int64), same(array)
  yield "list", array.tolist(), same(array)
  yield "floats", array.astype(np.float32), same(array)
  yield "fractional", array + 0.5
  yield "fraction", 0.5
  yield "NaN", array * np.nan
  yield "infinite", array + np.inf
  yield "booleans", array > 0
  yield "a boolean", True
  yield "too large", array + classes
  yield "too large one", classes
  yield "negative", array - 5
  yield "2^40", np.full(array.shape, 2**40)  # whose lower 32 bits are 0
  if lowest == 0:
    yield "no label", np.full(array.shape, -1)
  if not one:
    yield "one for all", 0
  yield "one too few", array[:-1]
  yield "one too many", np.concatenate([array, array[:1]])
  yield "an array of one", array[:1]
  yield "a column", array[:, np.newaxis]
  yield "empty", array[:0]


# --- Numbers ------------------------------------------------------------------------------------


@kind
def count(valid, low=None, most=None, huge=None):
  """An integer of at least `low`, which is 0 if 0 is valid, else 1; `huge`: what a very large one means."""
  low = min(valid, 1) if low is None else low
  yield from _foreign()
  yield "text", str(valid)
  yield "fraction", valid + 0.5
  yield "float", float(valid)
  yield "NaN", float("nan")
  yield "infinite", float("inf")
  yield "complex", complex(valid)
  yield "boolean", True
  yield "list", [valid]
  yield "array", np.array([valid, valid])
  yield "float tensor", lambda: tf.constant(float(valid))
  yield "vector tensor", lambda: tf.constant([valid, valid])
  yield "np.int64", np.int64(valid), same(valid)
  yield "array of rank 0", np.array(valid), same(valid)
  yield "tensor", lambda: tf.constant(valid), same(valid)
  yield "too small", low - 1
  yield "negative", -3
  if most is not None:
    yield "too large", most + 1
  yield "huge", 2**62, *([] if huge is None else [huge])


@kind
def number(valid, low=-np.inf, high=np.inf, ends=True):
  """A finite real number in low .. high; `ends`: whether these two belong to it."""
  yield from _foreign()
  yield "text", "hot"
  yield "NaN", float("nan")
  yield "infinite", float("inf")
  yield "-infinite", -float("inf")
  yield "complex", complex(valid, 1)
  yield "list", [valid]
  yield "array", np.array([valid, valid])
  yield "vector tensor", lambda: tf.constant([float(valid)] * 2)
  yield "text tensor", lambda: tf.constant("a")
  yield "boolean", True
  yield "np.float32", np.float32(valid), same(float(np.float32(valid)))
  yield "tensor", lambda: tf.constant(float(valid)), same(float(np.float32(valid)))
  if low > -np.inf:
    yield "too small", low - 1
    if not ends:
      yield "lower end", low
  if high < np.inf:
    yield "too large", high + 1
    if not ends:
      yield "upper end", high


@kind
def flag(valid):
  """A Python bool."""
  yield from _foreign()
  yield "text", "no"
  yield "number", 2
  yield "fraction", 0.5
  yield "NaN", float("nan")
  yield "list", []
  yield "array", np.array([valid, valid])
  yield "np.bool", np.bool_(valid), same(valid)


@kind
def _seed(valid):
  yield from _foreign()
  yield "text", "a"
  yield "fraction", 1.5
  yield "float", 1.0
  yield "NaN", float("nan")
  yield "boolean", True
  yield "complex", 1j
  yield "three integers", [1, 2, 3]
  yield "one integer in a list", [1]
  yield "fractions", [1.5, 2.5]
  yield "ragged list", [[1], [1, 2]]
  yield "matrix", np.zeros([2, 2], int)
  yield "huge", 2**70
  yield "empty", []
  if isinstance(valid, int):
    yield "np.int64", np.int64(valid), same(valid)
    yield "tensor", lambda: tf.constant(valid, tf.int64), same(valid)


# --- Texts, files, objects ----------------------------------------------------------------------


@kind
def text(valid):
  yield from _foreign()
  yield "number", 3
  yield "fraction", 1.5
  yield "boolean", True
  yield "bytes", str(valid).encode()
  yield "list", [valid]
  yield "array", np.array([1, 2])


@kind
def name(valid):
  """One of some names."""
  yield from text(valid).wrong(valid)
  yield "unknown", "no such name"
  yield "empty", ""
  yield "another case", valid.upper() if valid != valid.upper() else "Unknown"
  yield "array of names", np.array([valid, valid])


@kind
def path(valid, there=True):
  """A path; `there`: whether there must be something."""
  yield from _foreign()
  yield "number", 3
  yield "fraction", 1.5
  yield "boolean", True
  yield "list", ["a"]
  yield "array", np.zeros(2)
  yield "null byte", "a\0b"
  yield "empty", ""
  if there:
    yield "missing", "/nowhere/at/all"
  else:
    yield "in no folder", "/proc/nowhere/a"


@kind
def instance(valid):
  """An object of one class."""
  yield from _foreign()
  yield "text", "a"
  yield "number", 3
  yield "list", []
  yield "array", np.zeros([2, 2])


@kind
def shape(valid, rank=3, low=1):
  """Sizes: `rank` integers of at least `low`; None for any rank."""
  yield from _foreign()
  yield "text", "a" * (rank or 2)
  yield "fractions", [1.5] * len(valid)
  yield "floats", [float(n) for n in valid]
  yield "NaN", [float("nan")] * len(valid)
  yield "texts", [str(n) for n in valid]
  yield "booleans", [True] * len(valid)
  yield "negative", [-1] * len(valid)
  yield "complex", [1j] * len(valid)
  yield "nested", [list(valid)]
  yield "list", list(valid), same(tuple(valid))
  yield "array", np.array(valid, int), same(tuple(valid))
  if rank is not None:
    yield "a number", 3
    yield "one too few", valid[:-1]
    yield "one too many", (*valid, 1)
    yield "empty", ()
  if low:
    yield "zeros", [0] * len(valid)


@kind
def mapping(valid):
  yield "None", None
  yield "object", _Object()
  yield "text", "a"
  yield "number", 3
  yield "list", ["a"]
  yield "array", np.zeros([2, 2])


@kind
def binary(valid):
  yield from _foreign()
  yield "text", "a"
  yield "number", 3
  yield "list", [1, 2]
  yield "array", np.zeros([2, 2])
  yield "empty", b""
  yield "others", b"abc" * 100
  yield "half", valid[: len(valid) // 2]


def seed(valid):
  """An integer, a pair of integers, or None for a random one."""
  return optional(_seed(valid))


def some_of(valid, item: Sequence[tuple] = ()):
  """A list of things; `item`: wrong items as (name, item)."""

  def wrong(valid):
    yield from _foreign()
    yield "number", 3
    yield "text", "a"
    for name, value in (("None", None), ("number", 3), ("text", "a"), ("object", _Object()), *item):
      yield f"list with a wrong {name}", [*valid, value]

  return Argument(valid, wrong)


# Of images, right for functions that take those of any size; four axes or three.
OTHER_SHAPES = (
  "another height",
  "another width",
  "another number of channels",
  "transposed",
  "one image",
  "an axis too few",
)

# Refused by Keras before a layer of ours sees them.
OF_KERAS = ("objects", "array of objects", "masked")


def keras_input(valid, cast="floats", **kwargs):
  """A tensor that Keras hands to a layer: it casts floating-point numbers to the dtype of the layer."""
  return real(valid, cast=cast, **kwargs).but(*OF_KERAS)


def context(valid=None):
  """An `EvalContext`, or None."""
  return optional(instance(valid)).named("ctx")

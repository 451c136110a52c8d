"""What comes of a call with one wrong argument: an error that names it, a right answer, or a failure."""

import contextlib
import dataclasses
import io
import os
import re
from typing import Any

import numpy as np

from hardening.faults import Hang, ends_within
from support.public_callables.row import Row
from support.public_callables.world import World
from support.wrong_values import CONSTANT, EMPTY, INFINITE, NAN, REFUSED, Argument, Same, Wrong

ERROR, ANSWER = "error", "answer"  # right
SILENT, WRONG, UNNAMED, TRACEBACK, HANGS = "accepted", "wrong answer", "unnamed", "traceback", "hangs"
MOST_SECONDS = 60
# What the limit of a function is measured at: far out, and finite in float32.
_FAR = 1e30


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a case came to: its kind, and the message or the result."""

  kind: str
  what: str = ""

  @property
  def right(self):
    return self.kind in (ERROR, ANSWER)


def valid_values(row: Row, world: World) -> dict[str, Any]:
  """The valid value of each argument, except for those that are None by default."""
  return {name: _value(argument, world) for name, argument in row.arguments.items()}


def _value(argument: Argument, world: World):
  valid = argument.valid
  return valid(world) if getattr(valid, "__code__", None) and valid.__code__.co_varnames[:1] == ("w",) else valid


def wrong_values(row: Row, world: World) -> dict[str, list[Wrong]]:
  """The wrong values of each argument."""
  return {name: [*argument.values(_value(argument, world))] for name, argument in row.arguments.items()}


def call(row: Row, world: World, **changed):
  """Call with valid arguments but for the changed ones; return what the result is compared by."""
  try:
    with contextlib.redirect_stdout(io.StringIO()), ends_within(MOST_SECONDS):
      return row.look(row.make(world)(**{**valid_values(row, world), **changed}))
  finally:
    if row.reset is not None:
      row.reset(world)


def outcome(row: Row, world: World, name: str, wrong: Wrong, errors: tuple[type[Exception], ...] = ()) -> Outcome:
  """What comes of a wrong value of the argument `name`; `errors` are those that may be raised beside the usual ones."""
  value = wrong.value()
  try:
    result = call(row, world, **{name: value})
  except Hang:
    return Outcome(HANGS)
  except Exception as error:
    return _of_error(error, (name, *row.arguments[name].names), value, errors)
  if wrong.rule is REFUSED:
    return Outcome(SILENT, _short(result))
  try:
    problem = _compare(row, world, name, wrong, result)
  except Exception as error:  # of the valid call: the row is wrong
    return Outcome(TRACEBACK, f"the valid call: {type(error).__name__}: {error}")
  return Outcome(WRONG, f"{problem}: {_short(result)}") if problem else Outcome(ANSWER)


# --- Errors -------------------------------------------------------------------------------------


def _of_error(error, names, value, more):
  text = f"{type(error).__name__}: {error}"
  if isinstance(error, OSError) and isinstance(value, str) and value and os.path.dirname(value) in str(error):
    return Outcome(ERROR, text)  # documented: a file cannot be written
  if not isinstance(error, (ValueError, TypeError, NotImplementedError, *more)) or isinstance(error, UnicodeError):
    return Outcome(TRACEBACK, text)
  message = without_keras(str(error))
  if len(message.splitlines()) > 2 or len(message) > 300:
    return Outcome(UNNAMED, f"of {len(message.splitlines())} lines: {text}")
  if any(_names(message, name) for name in names) or (
    isinstance(value, str) and len(value) > 3 and repr(value) in message
  ):
    return Outcome(ERROR, message)
  return Outcome(UNNAMED, text)


def without_keras(message):
  """A message without what Keras puts around those of errors in `call`."""
  found = re.search(
    r"^Exception encountered when calling .*?\x1b\[1m(.*?)\x1b\[0m\n\nArguments received", message, re.DOTALL
  )
  return found[1] if found else message


def _names(message, name):
  """Whether a message names an argument: short names stand in backticks."""
  return f"`{name}" in message or (len(name) > 3 and re.search(rf"\b{re.escape(name)}\b", message) is not None)


# --- Answers ------------------------------------------------------------------------------------


def _compare(row, world, name, wrong, result):
  """What is wrong with a result, or None."""
  if isinstance(wrong.rule, Same):
    meant = wrong.rule.value
    valid = _equal(meant, _value(row.arguments[name], world))
    expected = _clean(row, world) if valid else call(row, world, **{name: meant})
    return None if _equal(result, expected) else f"not that of {_short(wrong.rule.value)}, {_short(expected)}"
  clean = _clean(row, world)
  if wrong.rule == EMPTY:
    batch = np.shape(_value(row.arguments[name], world))[0]
    return next(filter(None, (_not_empty(a, b, batch) for a, b in _pairs(result, clean))), None)
  limit = clean
  if wrong.rule == INFINITE:
    value = np.array(wrong.value())
    limit = call(row, world, **{name: np.where(np.isinf(value), np.sign(value) * _FAR, value).astype(value.dtype)})
  assert wrong.rule in (NAN, CONSTANT, INFINITE)
  pairs = [*_pairs(result, clean, limit)]
  problem = next(filter(None, (_not_affected(*pair) for pair in pairs)), None)
  if problem is None and wrong.rule == NAN and not any(np.isnan(pair[0]).any() for pair in pairs if _is_real(pair[0])):
    return "no number is NaN"
  return problem


def _clean(row, world):
  """The result of the valid arguments, computed once."""
  known = world.__dict__.setdefault("results", {})
  if id(row) not in known:
    known[id(row)] = row, call(row, world)  # the row is kept, so that no other has its id
  return known[id(row)][1]


def _pairs(*structures):
  """The leaves of equal structures, side by side."""
  first = structures[0]
  if isinstance(first, dict):
    for key in first:
      yield from _pairs(*(s[key] for s in structures))
  elif isinstance(first, list):
    for parts in zip(*structures, strict=True):
      yield from _pairs(*parts)
  else:
    yield structures


def _is_real(leaf):
  return isinstance(leaf, (float, np.ndarray)) and np.issubdtype(np.asarray(leaf).dtype, np.floating)


def _not_empty(leaf, clean, batch):
  of_batch = np.ndim(clean) and np.shape(clean)[0] == batch
  return "not empty" if of_batch and np.size(leaf) else None


def _not_affected(leaf, clean, limit):
  """A leaf may differ from the clean one where it is not finite, or at its limit."""
  if not _is_real(leaf):
    return None if np.array_equal(leaf, clean) else "another value"
  if np.shape(leaf) != np.shape(clean):
    return f"shape {np.shape(leaf)}, not {np.shape(clean)}"
  same = np.isclose(leaf, clean, 1e-4, 1e-5) | np.isclose(leaf, limit, 1e-4, 1e-5)
  return None if np.all(same | ~np.isfinite(leaf)) else "a finite number that is wrong"


def _equal(one, other):
  if isinstance(one, dict):
    return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
  if isinstance(one, list):
    return isinstance(other, list) and len(one) == len(other) and all(map(_equal, one, other))
  if _is_real(one) or _is_real(other):
    coarse = 1e-2 if np.float16 in (getattr(one, "dtype", None), getattr(other, "dtype", None)) else 1e-4
    return np.shape(one) == np.shape(other) and np.allclose(one, other, coarse, coarse / 10, equal_nan=True)
  if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
    return np.array_equal(one, other)
  return one == other or repr(one) == repr(other)


def _short(value):
  text = " ".join(repr(value).split())
  return text if len(text) < 100 else f"{text[:97]}..."

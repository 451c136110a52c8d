"""The exceptions of the package, and pieces of its messages; checks.py has the checks that raise an `InputError`."""

from collections.abc import Iterable
import difflib
import math
import textwrap

_LONGEST = 2000  # characters of a message
_LONGEST_LIST = 240  # characters of the names in one


class InputError(ValueError):
  """Raised for invalid user input, with the argument, the value and what was expected in one line.

  Args:
    message: the line.
    *ways: further lines, each a way to solve the problem.

  Examples:
    >>> fpp.get_config("digit")
    Traceback (most recent call last):
      ...
    flowpp_tf.core.errors.InputError: unknown config 'digit'; did you mean digits? (--import=MODULE registers others)
  """

  def __init__(self, message: object = "", *ways: str) -> None:
    text = str(message)
    if len(text) > _LONGEST:  # some messages quote a damaged file
      text = f"{text[:_LONGEST]} ..."
    self.lines = text, *ways
    super().__init__("\n".join(self.lines))


class Diverged(Exception):
  """Too many steps in a row had a loss or gradients that were not finite.

  Examples:
    >>> from flowpp_tf.training import Diverged
    >>> try:
    ...   model = fpp.train("digits", "digits", "runs/digits")
    ... except Diverged as error:
    ...   print(error)
  """


class WorkerLost(Exception):
  """Another worker of the run has ended or cannot be reached."""


def printable(text: object) -> str:
  """Return a text with its control characters escaped: a name in a foreign file could send commands to a terminal."""
  return "".join(map(_printable_character, str(text)))


def _printable_character(character):
  if character.isprintable():
    return character
  return character.encode("unicode_escape").decode()


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
  """Return the error for an unknown name, with the known names that are close to it."""
  known = sorted(known)
  hint = f"known: {textwrap.shorten(', '.join(known), _LONGEST_LIST, placeholder=' ...')}"
  if close := difflib.get_close_matches(str(name), known, n=3, cutoff=0.6):
    hint = f"did you mean {' or '.join(close)}?"
  return InputError(f"unknown {kind} {name!r}; {hint}")


def with_error(value: float, error: float | None, form: str = ".4f") -> str:
  """Return a figure with its standard error, "1.8200 +- 0.0180", or without one for a single example.

  Args:
    value: the figure.
    error: its standard error; None or NaN for none.
    form: how the figure is written; the error has as many digits, and no sign.
  """
  text = f"{value:{form}}"
  if error is None or math.isnan(error):
    return text
  return f"{text} +- {error:{form.lstrip('+')}}"

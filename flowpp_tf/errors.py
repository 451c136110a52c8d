"""The error that means: what was given is wrong, the program is not."""

import difflib


class InputError(ValueError):
  """Bad input: one line that names the argument, the value and what was expected."""


def unknown_name(kind, name, known):
  """The error for a name that is not among the known ones, with the closest of them."""
  known = sorted(known)
  close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
  hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
  return InputError(f"unknown {kind} {name!r}; {hint}")

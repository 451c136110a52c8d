"""Measured figures as text."""

import math


def with_error(value: float, error: float | None, form: str = ".4f") -> str:
  """Return a figure with its standard error, "1.8200 +- 0.0180", or alone where a single example has none.

  Args:
    value: the figure.
    error: its standard error; None or NaN for none.
    form: how the figure is written; the error has as many digits, and no sign.
  """
  text = f"{value:{form}}"
  return text if error is None or math.isnan(error) else f"{text} +- {error:{form.lstrip('+')}}"

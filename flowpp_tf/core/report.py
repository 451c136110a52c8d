"""What programs report: progress bars on stderr, so that logs have only lines, and figures with their errors."""

import math
from typing import Any

import tqdm


def progress_bar(
  total: int | None, unit: str, initial: int = 0, shown: bool | None = None, leave: bool = True
) -> tqdm.tqdm:
  """Return a progress bar, to be used as a context.

  Args:
    total: number of units, None if it is not known.
    unit: what is counted, such as "image"; "B" for bytes, shown as kB and MB.
    initial: units that were done before.
    shown: whether it is drawn; None draws it if stderr is a terminal.
    leave: whether the last line stays at the end.

  Examples:
    >>> from flowpp_tf.core.report import progress_bar
    >>> with progress_bar(3, "image", shown=False) as bar:
    ...   for _ in range(3):
    ...     drawn = bar.update(1)
  """
  style: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5, "miniters": 1, "leave": leave, "initial": initial}
  style |= {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": unit}
  return tqdm.tqdm(total=total, disable=None if shown is None else not shown, **style)


def with_error(value: float, error: float | None, form: str = ".4f") -> str:
  """Return a figure with its standard error, "1.8200 +- 0.0180", or alone where a single example has none.

  Args:
    value: the figure.
    error: its standard error; None or NaN for none.
    form: how the figure is written; the error has as many digits, and no sign.
  """
  text = f"{value:{form}}"
  return text if error is None or math.isnan(error) else f"{text} +- {error:{form.lstrip('+')}}"

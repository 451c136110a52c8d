"""Progress bars on stderr, so that programs can be piped and logs have only lines."""

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
    >>> from flowpp_tf.core.progress import progress_bar
    >>> with progress_bar(3, "image", shown=False) as bar:
    ...   for _ in range(3):
    ...     drawn = bar.update(1)
  """
  style: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5, "miniters": 1, "leave": leave, "initial": initial}
  style |= {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": unit}
  return tqdm.tqdm(total=total, disable=None if shown is None else not shown, **style)

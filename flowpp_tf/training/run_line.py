"""The line of a run on a terminal: steps, bits/dim, best validation, remaining time."""

from collections.abc import Callable
import math
import sys
import time

import tqdm

_EVERY = 0.5  # seconds


class RunLine:
  """A progress bar of the whole run, below the lines that are logged.

  Args:
    steps: of the whole run.
    shown: whether to draw it.
  """

  def __init__(self, steps: int, shown: bool) -> None:
    self._steps, self._shown = steps, shown
    self._bar: tqdm.tqdm | None = None
    self._drawn = 0.0

  def update(self, step: int, bits_per_dim: Callable[[], float], best: float) -> None:
    """Show that a step has been taken.

    Args:
      step: the step.
      bits_per_dim: function that returns the mean of the last steps; called when the line is drawn.
      best: the best validation, infinite before the first.
    """
    if not self._shown:
      return
    if self._bar is None:  # from the second step on: the first includes tracing, and would spoil the remaining time
      self._bar = tqdm.tqdm(
        total=self._steps, initial=step, unit="step", file=sys.stdout, dynamic_ncols=True, leave=False
      )
    if time.monotonic() - self._drawn >= _EVERY:
      self._drawn = time.monotonic()
      text = f"{bits_per_dim():.4f} bits/dim" + (f", best {best:.4f}" if math.isfinite(best) else "")
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step - self._bar.n)

  def clear(self) -> None:
    """Make room for another line."""
    if self._bar is not None:
      self._bar.clear()

  def close(self) -> None:
    """Remove the line."""
    if self._bar is not None:
      self._bar.close()

"""SIGTERM and Ctrl-C ask a run to save its state and stop, rather than end the process."""

import signal
from types import FrameType
from typing import Any


class Stopped(Exception):
  """Training was asked to stop.

  Attributes:
    step: the last step.
    saved: whether its state is saved.
  """

  def __init__(self, step: int, saved: bool = True) -> None:
    super().__init__(f"stopped after step {step}")
    self.step = step
    self.saved = saved


class StopSignals:
  """Context manager that catches SIGTERM and SIGINT; a second Ctrl-C does not wait.

  Attributes:
    received: whether the run is asked to stop.
  """

  def __init__(self) -> None:
    self.received = False
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> "StopSignals":
    for number in (signal.SIGTERM, signal.SIGINT):
      try:
        self._handlers[number] = signal.signal(number, self._on_signal)
      except ValueError:  # not the main thread, which gets the signals
        pass
    return self

  def __exit__(self, *exception: Any) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    self._handlers = {}

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.received and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.received = True

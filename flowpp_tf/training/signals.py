"""SIGTERM, Ctrl-C and a lost terminal ask a run to save its state and stop, rather than end the process."""

import contextlib
import os
import signal
from typing import Any


class Stopped(Exception):
  """Training was asked to stop.

  Attributes:
    step: the last step.
    saved_step: the step whose state is saved; None if there is none.

  Examples:
    >>> from flowpp_tf.training import Stopped
    >>> stopped = Stopped(step=120, saved_step=120)
    >>> print(stopped)
    stopped after step 120 and saved
  """

  def __init__(self, step: int, saved_step: int | None) -> None:
    message = f"stopped after step {step} and saved"
    if saved_step is None:
      message = f"stopped after step {step}, which could not be saved; there is no saved state"
    elif saved_step != step:
      message = f"stopped after step {step}, which could not be saved; the newest saved state is from step {saved_step}"
    super().__init__(message)
    self.step = step
    self.saved_step = saved_step

  @property
  def saved(self) -> bool:
    """Whether the state of the last step is saved."""
    return self.saved_step == self.step


class StopSignals:
  """Context manager that catches SIGTERM, SIGINT and SIGHUP; a second Ctrl-C raises `KeyboardInterrupt` at once.

  Args:
    message: line to write on stderr at once when the run is asked to stop; "" for none.

  Attributes:
    received: whether the run is asked to stop.
  """

  def __init__(self, message: str = "") -> None:
    self._message = message
    self.received = False
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> "StopSignals":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
        continue
      with contextlib.suppress(ValueError):  # not the main thread, which gets the signals
        self._handlers[number] = signal.signal(number, self._on_signal)
    return self

  def __exit__(self, *exception: Any) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)

  def _on_signal(self, number, frame):
    if self.received and number == signal.SIGINT:
      raise KeyboardInterrupt
    if self._message and not self.received:
      with contextlib.suppress(OSError):  # `print` must not be called here: it may be what was interrupted
        os.write(2, f"{self._message}\n".encode())
    self.received = True

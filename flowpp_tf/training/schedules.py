"""Learning-rate schedules composed from pieces, written as text.

    linear:3e-4@2000,hold                       warm up to 3e-4 over 2,000 steps, then constant
    linear:1e-3@5000,hold@50000,decay:0.99995:3e-4
                                                ..., then x 0.99995 a step down to 3e-4, and constant

A piece is `kind@end`: it begins with the rate that the piece before it reached, and acts until step `end`. The last
piece has no end, except for `linear` and `cosine`, which then hold the rate that they reached.

    linear:VALUE@END       in a straight line to VALUE
    cosine:VALUE@END       along half a cosine to VALUE
    decay:FACTOR[:FLOOR]   multiplied by FACTOR each step, not below FLOOR
    hold[:VALUE]           constant at VALUE, or at the rate so far
"""

import dataclasses
import math

import keras
import tensorflow as tf

from flowpp_tf.core.checks import INT32_MAX, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import TensorLike

_ARGUMENT_COUNTS = {"linear": (1,), "cosine": (1,), "decay": (1, 2), "hold": (0, 1)}


@dataclasses.dataclass(frozen=True)
class _Piece:
  kind: str
  begin: float
  end: float
  first: float  # rate at `begin`
  last: float  # rate at `end`; the floor of a decay
  factor: float = 1.0

  def __call__(self, step):
    """Return the rate at a step within the piece, a floating-point tensor."""
    passed = step - self.begin
    if self.kind == "decay":
      return tf.maximum(self.first * tf.exp(passed * math.log(self.factor)), self.last)
    if self.kind == "hold":
      return tf.ones_like(step) * self.last
    fraction = tf.minimum(passed / (self.end - self.begin), 1.0)
    if self.kind == "cosine":
      fraction = (1 - tf.cos(math.pi * fraction)) / 2
    return self.first + (self.last - self.first) * fraction


@keras.saving.register_keras_serializable("flowpp_tf")
class PiecewiseSchedule(keras.optimizers.schedules.LearningRateSchedule):
  """The schedule that a text describes, see the head of this file.

  Args:
    pieces: the text.

  Step t, counted from 0, has the rate at its end: in a warm-up of N steps from 0, step 0 has 1/N of the peak, and step
  N - 1 has the peak. So the rate is positive at every step until a last `cosine:0` or `linear:0` has ended.

  Raises:
    InputError (a ValueError): if the text cannot be parsed, or gives a rate that is not positive.

  Examples:
    >>> from flowpp_tf.training import PiecewiseSchedule
    >>> schedule = PiecewiseSchedule("linear:1e-3@100,hold@900,cosine:0@1000")
    >>> [round(float(schedule(step)), 6) for step in (0, 99, 949)]
    [1e-05, 0.001, 0.0005]
  """

  def __init__(self, pieces: str) -> None:
    super().__init__()
    check_type("schedule", pieces, str)
    self.pieces = pieces
    self._pieces = _parse(pieces)

  def __call__(self, step: TensorLike) -> tf.Tensor:
    step = tf.cast(step, tf.float64) + 1
    rate = self._pieces[-1](step)
    for piece in self._pieces[-2::-1]:
      rate = tf.where(step <= piece.end, piece(step), rate)
    return tf.cast(rate, tf.float32)

  def get_config(self) -> dict[str, str]:
    return {"pieces": self.pieces}


def _parse(text):
  pieces: list[_Piece] = []
  begin, rate = 0.0, 0.0
  entries = [entry.strip() for entry in text.split(",")]
  for i, entry in enumerate(entries):
    last = i == len(entries) - 1
    body, _, end = entry.partition("@")
    kind, *arguments = body.split(":")
    try:
      arguments = [float(a) for a in arguments]
      end = int(end) if end else math.inf
      has_form = len(arguments) in _ARGUMENT_COUNTS.get(kind, ()) and all(map(math.isfinite, arguments))
      if not has_form or INT32_MAX < end < math.inf:
        raise ValueError
    except ValueError:
      raise InputError(
        f"`schedule` {text!r} has an entry {entry!r}; expected linear:VALUE@END, cosine:VALUE@END, "
        "decay:FACTOR:FLOOR@END or hold:VALUE@END"
      ) from None
    if not end > begin or (end == math.inf and not (last and kind in ("hold", "decay"))):
      raise InputError(f"`schedule` {text!r}: {entry!r} must end at a step after {begin:g}")
    if kind == "decay":
      factor, floor = (*arguments, 0.0)[:2]
      if not 0 < factor < 1:
        raise InputError(f"`schedule` {text!r}: the factor of {entry!r} must lie between 0 and 1")
      if floor > rate:
        raise InputError(f"`schedule` {text!r}: the floor of {entry!r} must be at most {rate:g}, the rate before it")
      pieces.append(_Piece(kind, begin, end, rate, floor, factor))
      reached = max(rate * factor ** (end - begin), floor) if end < math.inf else floor or rate
    else:
      reached = arguments[0] if arguments else rate
      pieces.append(_Piece(kind, begin, end, rate, reached))
    if reached < 0 or (reached == 0 and not (last and kind in ("linear", "cosine"))):
      raise InputError(f"`schedule` {text!r}: {entry!r} gives a rate that is not positive")
    begin, rate = end, reached
  if begin < math.inf and rate > 0:
    pieces.append(_Piece("hold", begin, math.inf, rate, rate))
  return pieces


def learning_rate_schedule(kind: str, peak: float | None, warmup_steps: int, steps: int) -> PiecewiseSchedule:
  """Return the schedule of a run.

  Args:
    kind: "constant" after the warm-up; "cosine", to zero at the end of the run; or the text of a
      `PiecewiseSchedule`, which describes the whole schedule.
    peak: learning rate after the warm-up, for "constant" and "cosine"; None for 1e-3.
    warmup_steps: number of steps of linear warm-up, for "constant" and "cosine".
    steps: number of steps of the whole run.

  Raises:
    InputError (a ValueError): if a text and a peak are both given, or a text ends at a rate of 0 before the last step.
  """
  if kind not in ("constant", "cosine"):
    if peak is not None or warmup_steps:
      raise InputError(f"`schedule` {kind!r} gives the rate at each step: leave out `learning_rate` and `warmup_steps`")
    schedule = PiecewiseSchedule(kind)
    last = schedule._pieces[-1]
    if last.kind in ("linear", "cosine") and last.end < steps:  # after one that ends above 0 there is a "hold"
      raise InputError(
        f"`schedule` {kind!r} has a rate of 0 from step {last.end} on, where the run has {steps} `steps`; let it end "
        "with the run, or take fewer steps"
      )
    return schedule
  peak = 1e-3 if peak is None else peak
  before = f"linear:{peak}@{warmup_steps}" if warmup_steps else f"hold:{peak}@1"
  if kind == "cosine" and warmup_steps < steps:  # a run may end in its warm-up
    return PiecewiseSchedule(f"{before},cosine:0@{steps + 1}")
  return PiecewiseSchedule(f"{before},hold")

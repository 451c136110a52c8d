"""`fpp.fit`: maximum likelihood of vectors, or of images, by a flow of this package or of TFP, with early stopping."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tqdm

from flowpp_tf.bijectors import ActNorm, Invertible1x1Conv, Invertible1x1ConvLU
from flowpp_tf.bijectors.normalization import check_resolved
from flowpp_tf.core.checks import INT32_MAX, as_array, check_all_finite, check_arguments, check_count, check_number
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.finite import raise_if_diverged
from flowpp_tf.layers import Flow
from flowpp_tf.posterior.conditional import Ensemble, ensemble_with_new_members, single_flows
from flowpp_tf.posterior.support import OnSupport
from flowpp_tf.training.optimizer import Adam
from flowpp_tf.training.schedules import learning_rate_schedule
from flowpp_tf.training.state import StepState, take_step
from flowpp_tf.types import TensorLike

_CLIP_NORM = 1.0  # of the gradient: densities of data near a plane are steep
_MAX_SKIPPED = 10  # steps in a row that are not finite
_CAUSES = (
  "no step was finite: probably columns of `data` are too large or too far from 0 for the flow; standardise them, or "
  "take a flow in float64",
  "steps before were finite: probably the learning rate is too high for these data; try a lower `learning_rate`",
)
_FEWEST_STEPS, _EPOCHS = 2000, 20  # by default: docs/posteriors.md says what chose the epochs
_WARMUP = 0.05  # of all steps
_AVERAGED = 0.05  # of all steps, over which weights are averaged
_MOST_ROWS = 4096  # of one evaluation, and of the data-dependent initialisation
_MOST_IMAGES = 256
_OVERFITTED = 0.05  # nats that validation falls by after its best
_MOST_VALIDATION_ROWS = 10_000  # by default


class FitResult(NamedTuple):
  """What `fpp.fit` has measured, one value of each array per evaluation.

  Attributes:
    steps: training steps before the evaluation.
    train: mean log density of the training batches since the evaluation before, in nats, without those of skipped
      steps; NaN if all were skipped.
    validation: mean log density of the validation rows, by the averaged weights, in nats; empty without validation.
    best_step: step whose weights the flow has now, 0 for those that training began with; the last one if no validation
      was finite.
    skipped: steps that were skipped, as their loss or gradients were not finite.
    flow: the flow.
  """

  steps: np.ndarray
  train: np.ndarray
  validation: np.ndarray
  best_step: int
  skipped: int
  flow: Any

  def __repr__(self) -> str:
    return "\n".join(self._summary())

  def _summary(self):
    """Return two lines: what training did, and what follows from it."""
    last = self.steps[-1]
    skipped = f" ({self.skipped} of them skipped, as they were not finite)" if self.skipped else ""
    if not len(self.validation):
      trained = f"{last} steps{skipped}, training log density {self.train[0]:.3f} to {self.train[-1]:.3f} nats"
      return trained, "no rows were held out: nothing tells whether the flow overfits"
    if not self.best_step:
      kept = f"validation was not better at any of {last} steps{skipped} than before the first one"
      return kept, "the flow keeps the weights it began with; try a lower `learning_rate`"
    if not np.any(np.isfinite(self.validation)):
      return f"no validation of {last} steps{skipped} was finite", "the flow has the last weights: do not use it"
    best = self.validation[self.steps == self.best_step][0]
    found = f"validation was best at step {self.best_step} of {last}{skipped}: {best:.3f} nats per row"
    fall = best - np.nan_to_num(self.validation[-1], nan=-math.inf)
    if self.best_step == last:
      return found, "the last evaluation was the best: more `steps` may help"
    if fall > _OVERFITTED:
      return found, f"it fell by {fall:.2g} nats after it, the flow overfits: try more rows, or a smaller flow"
    return found, f"it changed by {fall:.2g} nats after it: training has converged"


class EnsembleResult(NamedTuple):
  """What `fpp.fit` has measured of each of several flows.

  Attributes:
    flow: their `fpp.ensemble`.
    members: a `FitResult` for each of its flows, those of an ensemble in it too.
  """

  flow: Ensemble
  members: list[FitResult]

  def __repr__(self) -> str:
    return "\n".join(f"flow {i}: {'; '.join(member._summary())}" for i, member in enumerate(self.members))

  @property
  def skipped(self) -> int:
    """Steps that were skipped, of all members."""
    return sum(one.skipped for one in self.members)


@check_arguments
def fit(
  flow: tfp.distributions.Distribution | Flow,
  data: TensorLike,
  context: TensorLike | None = None,
  *,
  validation: float | TensorLike | None = None,
  validation_context: TensorLike | None = None,
  steps: int | None = None,
  batch_size: int = 256,
  learning_rate: float = 4e-3,
  weight_decay: float | None = None,
  patience: int = 10,
  members: int = 1,
  seed: int = 0,
  verbose: bool = False,
) -> FitResult | EnsembleResult:
  """Train a flow by maximum likelihood, stop early, and leave it with the weights of the best validation.

  The weights that training begins with are validated too, so a flow does not become worse by it on these rows.
  The weights that are validated and kept are exponential moving averages over a twentieth of the steps (Polyak and
  Juditsky 1992): those of single steps are noisy until the learning rate is nearly 0.

  Args:
    flow: TFP distribution of vectors `[D]` with trainable variables, such as `fpp.vector_flow_for(data)` or a
      `tfd.TransformedDistribution`; or a `VectorFlow`; or a distribution of images, such as `fpp.image_flow`. A new
      flow is initialised from the data first.
    data: rows `[N, D]`; of images `[N, H, W, C]`.
    context: rows `[N, C]`, for a flow with a context; of images `[N, *context_shape]`.
    validation: share of the rows, drawn at random, that early stopping looks at; or rows `[M, D]` of their own. None
      takes a tenth, a quarter of few rows; 0 takes none, and all steps are taken.
    validation_context: `[M, C]`, if `validation` is rows and the flow has a context.
    steps: of the whole training, at the end of which the learning rate is 0: it rises over a twentieth of them, and
      falls along half a cosine. None is 2,000, or 20 epochs if these have more.
    batch_size: rows of a step.
    learning_rate: the highest, of Adam.
    weight_decay: share of the networks' kernels that a step takes away, times the learning rate (AdamW). None is
      3,000 over the number of training rows, at most 10; with a context 1,000 over it, at most 1. Of images each
      position counts as a row.
    patience: evaluations without a better one, after which training ends. An evaluation is after each epoch, or after
      a fortieth of the steps if that is longer.
    members: how many flows are trained, each from weights and with a split of its own; `flow` is the first of them.
      Further ones need a `flow` that `vector_flow`, `vector_flow_for` or `VectorFlow` has made.
    seed: of the split and of the order of rows. The same seed gives the same weights from the same start.
    verbose: whether to show a progress bar on stderr.

  Returns:
    `FitResult`; of several members, or if `flow` is an `fpp.ensemble`, whose members are all trained, `EnsembleResult`.

  Raises:
    InputError (a ValueError): if an argument is invalid, or the flow has no trainable variables.
    Diverged: if ten steps in a row are not finite; the flow has the best weights up to then.

  Examples:
    >>> x = np.random.normal(size=[1000, 2]).astype("float32")
    >>> flow = fpp.vector_flow_for(x)
    >>> result = fpp.fit(flow, x, steps=20)
    >>> result.validation.shape == result.steps.shape
    True
  """
  if steps is not None:
    check_count("steps", steps, high=INT32_MAX)
  for name, count in dict(batch_size=batch_size, patience=patience, members=members).items():
    check_count(name, count, high=INT32_MAX)
  check_count("seed", seed, 0, 2**32 - 1)
  check_number("learning_rate", learning_rate, 0.0, ends=False)
  if weight_decay is not None:
    check_number("weight_decay", weight_decay, 0.0)
  layer, flow = (flow, flow.distribution) if isinstance(flow, Flow) else (None, flow)
  if members > 1:
    flow = ensemble_with_new_members(flow, members)
  results: list[FitResult] = []
  for i, (one, _) in enumerate(single_flows(flow)):
    rng = np.random.RandomState((seed + i) % 2**32)
    train, held_out = _split(one, data, context, validation, validation_context, rng)
    number = steps or max(_FEWEST_STEPS, _EPOCHS * math.ceil(len(train[0]) / batch_size))
    trainer = _Trainer(one, train, number, learning_rate, weight_decay)
    results.append(trainer.run(train, held_out, number, batch_size, patience, rng, verbose))
  if layer is not None:
    layer.initialized = True
  return EnsembleResult(flow, results) if isinstance(flow, Ensemble) else results[0]


def _default_weight_decay(rows, has_context):
  """Return the decay for a number of rows; docs/benchmarks/vector_flows.md and docs/posteriors.md say what chose it.

  It is strong enough that networks of few rows forget what no gradient renews, and couplings become elementwise. With a
  context they may not: kernels are all by which the density depends on it.
  """
  return min(1.0, 1000 / rows) if has_context else min(10.0, 3000 / rows)


def _split(flow, data, context, validation, validation_context, rng):
  """Return training and validation rows, each a list of `data` and, if there is one, `context`."""
  rows = _rows(flow, data, context, "data", "context")
  if validation is not None and not isinstance(validation, (int, float, np.number)):
    return rows, _rows(flow, validation, validation_context, "validation", "validation_context")
  if validation_context is not None:
    raise InputError("`validation_context` must be None unless `validation` is rows")
  count = len(rows[0])
  if validation is None:
    held_out = min(max(count // 10, min(count // 4, 200)), _MOST_VALIDATION_ROWS)
  else:
    check_number("validation", validation, 0.0, 1.0)
    held_out = math.ceil(validation * count)
  if count - held_out < 2:
    raise InputError(f"`data` must leave two or more rows for training, got {count}, {held_out} of them for validation")
  order = rng.permutation(count)
  part = lambda indices: [array[indices] for array in rows]
  return part(order[held_out:]), part(order[:held_out]) if held_out else None


def _rows(flow, data, context, name, name_of_context):
  """Return arrays of finite numbers in the flow's dtype, `[N, D]` and `[N, C]`."""
  if tuple(flow.batch_shape) or len(flow.event_shape) not in (1, 3):
    raise InputError(
      f"`flow` must have no batch and events of shape [D] or [H, W, C], got {[*flow.batch_shape]} and "
      f"{[*flow.event_shape]}"
    )
  arrays = [as_array(name, data, [None, *flow.event_shape])]
  if getattr(flow, "context_size", 0) != 0:
    arrays.append(as_array(name_of_context, context, [None, *flow.context_shape]))
    if len(arrays[0]) != len(arrays[1]):
      raise InputError(f"`{name_of_context}` must have {len(arrays[0])} rows, as `{name}`, got {len(arrays[1])}")
  elif context is not None:
    raise InputError(f"`{name_of_context}` must be None, as {flow.name!r} takes no context")
  if not len(arrays[0]):
    raise InputError(f"`{name}` must have rows, got none")
  converted = [array.astype(flow.dtype.as_numpy_dtype) for array in arrays]
  for argument, array in zip((name, name_of_context), converted):
    check_all_finite(argument, array)
  if name == "data":  # validation rows may be few, and lie close together
    _check_digits(flow, *arrays)
  for part in flow.submodules:
    if isinstance(part, OnSupport) and len(outside := np.flatnonzero(~part.contains(converted[0]).numpy())):
      raise InputError(
        f"`{name}` must lie in the support of the flow: row {outside[0]} does not, {converted[0][outside[0]]} "
        f"({len(outside)} of {len(converted[0])})"
      )
  return converted


def _check_digits(flow, data, context=None):
  """Raise an `InputError` if the flow, or its embedding, would lose the digits in which rows differ."""
  check_resolved("`data`", _by_column(data), flow.dtype)
  if context is not None:
    reader = ", as the embedding reads it," if hasattr(flow, "embedding") else ""
    check_resolved(f"`context`{reader}", _by_column(context), getattr(flow, "context_dtype", flow.dtype))


def _by_column(array):
  return array.reshape(-1, array.shape[-1])


def _check_no_column_is_constant(data):
  """Raise an `InputError` if all values of a column are equal: its density would grow without bound."""
  columns = _by_column(data)
  constant = np.flatnonzero(columns.min(axis=0) == columns.max(axis=0))
  if len(constant):
    values = f"{columns[0, constant[0]]:g} in all rows of column {constant[0]}"
    raise InputError(f"`data` must vary in each column, got {values}: leave this column out")


class _AdamW(Adam):
  """Adam with decay of some of the weights; those of TFP's networks then keep their constraints."""

  def __init__(self, schedule, decayed, decay):
    super().__init__(schedule)
    self._decayed, self._decay = {id(v) for v in decayed}, decay

  def update_step(self, gradient, variable, learning_rate):
    if id(variable) in self._decayed:
      variable.assign(variable * tf.cast(tf.maximum(1 - learning_rate * self._decay, 0.0), variable.dtype))
    super().update_step(gradient, variable, learning_rate)
    if getattr(variable, "constraint", None) is not None:  # the masks of `tfb.AutoregressiveNetwork`
      variable.assign(variable.constraint(variable))


class _Trainer:
  """A flow, its optimizer, and the compiled functions of a step and of an evaluation."""

  def __init__(self, flow, rows, steps, learning_rate, weight_decay):
    self._flow = flow
    self._most_rows = _MOST_ROWS if len(flow.event_shape) == 1 else _MOST_IMAGES
    count = len(rows[0])
    spread = np.arange(min(count, self._most_rows)) * count // min(count, self._most_rows)  # they may be sorted
    start = [array[spread] for array in rows]
    norms = [part for part in flow.submodules if isinstance(part, ActNorm)]
    if hasattr(flow, "initialize") and norms and not any(part.is_initialized() for part in norms):
      _check_no_column_is_constant(start[0])
      self._conditioned(start[1:]).initialize(start[0])
    else:
      self._log_prob(start[0][:1], *(array[:1] for array in start[1:]))  # networks of TFP have their weights after it
    self._variables = list(flow.trainable_variables)
    if not self._variables:
      raise InputError(f"`flow` must have trainable variables, {flow.name!r} has none")
    self._rows = [tf.constant(array) for array in rows]
    schedule = learning_rate_schedule("cosine", learning_rate, max(1, int(_WARMUP * steps)), steps)
    if weight_decay is None:
      weight_decay = _default_weight_decay(rows[0][..., 0].size, len(rows) > 1)
    linear = [part for part in flow.submodules if isinstance(part, (Invertible1x1Conv, Invertible1x1ConvLU))]
    of_flow = {id(v) for part in linear for v in part.variables}  # they do not begin at 0, unlike those of networks
    decayed = [v for v in self._variables if "kernel" in v.name and id(v) not in of_flow] if weight_decay else []
    self._state = StepState(
      _AdamW(schedule, decayed, weight_decay),
      self._variables,
      clip_norm=_CLIP_NORM,
      ema_decay=1 - 1 / max(_AVERAGED * steps, 1.0),
      ema_warmup=True,
      dtype=flow.dtype,
    )
    # Traced once each; TensorFlow would warn of the traces of several calls of `fit` as of those of one function.
    compiled = lambda function, *specs: tf.function(function, autograph=False).get_concrete_function(*specs)
    in_replica = lambda indices: tf.distribute.get_strategy().run(self._take_step, (indices,))
    self._step = compiled(in_replica, tf.TensorSpec([None], tf.int32))
    self._evaluate = compiled(self._log_prob, *(tf.TensorSpec([None, *r.shape[1:]], r.dtype) for r in self._rows))

  def _conditioned(self, context):
    return self._flow.given(*context) if context else self._flow

  def _log_prob(self, x, *context):
    return self._conditioned(context).log_prob(x)

  def _take_step(self, indices):
    """Take a step on the rows with these indices."""
    batch = [tf.gather(rows, indices) for rows in self._rows]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(self._variables)
      loss = -tf.reduce_mean(self._log_prob(*batch))
    take_step(self._state, loss, tape.gradient(loss, self._variables))

  def _mean_log_prob(self, rows):
    parts = range(0, len(rows[0]), self._most_rows)
    log_probs = [self._evaluate(*(array[i : i + self._most_rows] for array in rows)).numpy() for i in parts]
    return float(np.mean(np.concatenate(log_probs), dtype=np.float64))

  def run(self, train, held_out, steps, batch_size, patience, rng, verbose):
    count = len(train[0])
    batches = _batches(count, min(batch_size, count), rng)
    every = max(math.ceil(count / batch_size), math.ceil(steps / 40))
    history: list[tuple] = []
    best, best_step, last_better, weights = -math.inf, 0, 0, None  # `last_better`: evaluations up to the best one
    held_out = held_out and [tf.constant(array) for array in held_out]
    if held_out and math.isfinite(value := self._mean_log_prob(held_out)):
      best, weights = value, [v.numpy() for v in self._flow.variables]
    with tqdm.tqdm(total=steps, unit="step", disable=not verbose) as bar:
      try:
        for step in range(1, steps + 1):
          self._step(tf.constant(next(batches)))
          bar.update(1)
          if step % every and step < steps:
            continue
          in_a_row = int(self._state.skipped_in_a_row)
          raise_if_diverged(in_a_row, _MAX_SKIPPED, _CAUSES[step > in_a_row], step)
          train_mean = -self._state.means()["loss"]
          with self._state.ema_weights():
            value = self._mean_log_prob(held_out) if held_out else math.nan
            averaged = [v.numpy() for v in self._flow.variables]
          history.append((step, train_mean, value))
          self._state.reset_sums()
          bar.set_postfix_str("train {1:.3f}, validation {2:.3f} nats".format(*history[-1]))
          if not held_out or (math.isfinite(value) and value > best):
            best, best_step, last_better, weights = value, step, len(history), averaged
          elif len(history) - last_better >= patience:
            break
      finally:  # after Ctrl-C too
        for variable, value in zip(self._flow.variables, weights or []):
          variable.assign(value)
    taken, means, values = (np.array(column) for column in zip(*history))
    skipped, best_step = int(self._state.skipped_steps), history[-1][0] if weights is None else best_step
    return FitResult(taken, means, values if held_out else np.empty(0), best_step, skipped, self._flow)


def _batches(count, size, rng):
  """Yield the indices of batches for ever; those of an epoch have equal sizes up to one row, and all rows."""
  while True:
    yield from np.array_split(rng.permutation(count).astype(np.int32), math.ceil(count / size))

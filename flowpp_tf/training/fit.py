"""`fpp.fit`: maximum likelihood of vectors, or of images, by a flow of this package or of TFP, with early stopping."""

from __future__ import annotations

import functools
import itertools
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
_NEVER_FINITE = (
  "no step was finite: probably columns of `data` are too large or too far from 0 for the flow; standardise them, or "
  "take a flow in float64"
)
_NO_LONGER_FINITE = (
  "steps before were finite: probably the learning rate is too high for these data; try a lower `learning_rate`"
)
_FEWEST_STEPS = 2000  # by default
_EPOCHS = 20  # by default; docs/posteriors.md says what chose them
_WARMUP = 0.05  # of all steps
_AVERAGED = 0.05  # of all steps, over which weights are averaged
_MOST_ROWS = 4096  # of one evaluation, and of the data-dependent initialisation
_MOST_IMAGES = 256
_OVERFITTED = 0.05  # nats that validation falls by after its best
_MOST_VALIDATION_ROWS = 10_000  # by default


class FitResult(NamedTuple):
  """What `fpp.fit` has measured, one value of each array per evaluation.

  Attributes:
    steps: number of training steps before the evaluation.
    train: mean log density of the training batches since the last evaluation, in nats, without skipped steps; NaN if
      all steps were skipped.
    validation: mean log density of the validation rows under the EMA weights, in nats; empty without validation.
    best_step: step whose weights the flow has now; 0 for the initial weights, the last step if no validation was
      finite.
    skipped: number of steps that were skipped because loss or gradients were not finite.
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
    skipped = ""
    if self.skipped:
      skipped = f" ({self.skipped} of them skipped, as they were not finite)"
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
    flow: `fpp.ensemble` of the flows.
    members: a `FitResult` for each flow. An ensemble within the ensemble counts as its flows.
  """

  flow: Ensemble
  members: list[FitResult]

  def __repr__(self) -> str:
    return "\n".join(f"flow {i}: {'; '.join(member._summary())}" for i, member in enumerate(self.members))

  @property
  def skipped(self) -> int:
    """Number of skipped steps, summed over members."""
    return sum(member.skipped for member in self.members)


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

  The initial weights are validated too, so training does not make a flow worse on these rows. The weights that are
  validated and kept are exponential moving averages over a twentieth of the steps (Polyak and Juditsky 1992). Without
  averaging, weights are noisy until the learning rate is nearly 0.

  Args:
    flow: TFP distribution of vectors `[D]` with trainable variables, such as `fpp.vector_flow_for(data)` or a
      `tfd.TransformedDistribution`; or a `VectorFlow`; or a distribution of images, such as `fpp.image_flow`. A new
      flow is initialised from the data first.
    data: rows `[N, D]`; of images `[N, H, W, C]`.
    context: rows `[N, C]`, for a flow with a context; of images `[N, *context_shape]`.
    validation: share of the rows, drawn at random, that early stopping looks at; or rows `[M, D]` of their own. None
      takes a tenth, a quarter of few rows; 0 takes none, and all steps are taken.
    validation_context: `[M, C]`, if `validation` is rows and the flow has a context.
    steps: number of steps of the whole training. The learning rate rises over a twentieth of them, then falls to 0
      along half a cosine. None is 2,000, or 20 epochs if these have more.
    batch_size: number of rows in a step.
    learning_rate: highest learning rate of Adam.
    weight_decay: decay of the networks' kernels, times the learning rate in each step (AdamW). None is 3,000 over the
      number of training rows, at most 10; with a context, 1,000 over the number of rows, at most 1. Each position of an
      image counts as a row.
    patience: number of evaluations without improvement after which training ends. The flow is evaluated after each
      epoch, or after each fortieth of the steps if that is longer.
    members: number of flows to train, each with initial weights and a split of its own; `flow` is the first of them.
      More than one needs a `flow` from `vector_flow`, `vector_flow_for` or `VectorFlow`.
    seed: seed of the split and of the order of rows. The same seed gives the same weights from the same start.
    verbose: whether to show a progress bar on stderr.

  Returns:
    `FitResult`; `EnsembleResult` for several members, or if `flow` is an `fpp.ensemble`, whose members are all trained.

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
  layer = None
  if isinstance(flow, Flow):
    layer = flow
    flow = layer.distribution
  if members > 1:
    flow = ensemble_with_new_members(flow, members)
  results: list[FitResult] = []
  for i, (member, _) in enumerate(single_flows(flow)):
    rng = np.random.RandomState((seed + i) % 2**32)
    train, held_out = _split(member, data, context, validation, validation_context, rng)
    epoch = math.ceil(len(train[0]) / batch_size)
    member_steps = steps or max(_FEWEST_STEPS, _EPOCHS * epoch)
    _initialize(member, train)
    state = _make_state(member, train, member_steps, learning_rate, weight_decay)
    interval = max(epoch, math.ceil(member_steps / 40))
    batches = _batches(len(train[0]), batch_size, rng)
    results.append(_train(member, state, train, held_out, batches, member_steps, interval, patience, verbose))
  if layer is not None:
    layer.initialized = True
  return EnsembleResult(flow, results) if isinstance(flow, Ensemble) else results[0]


def _default_weight_decay(rows, has_context):
  """Return the decay for a number of rows; docs/benchmarks/vector_flows.md and docs/posteriors.md say what chose it.

  On few rows the decay is so strong that kernels without a lasting gradient vanish, and couplings become elementwise.
  With a context it is weaker: the density depends on the context only through kernels.
  """
  if has_context:
    return min(1.0, 1000 / rows)
  return min(10.0, 3000 / rows)


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
  train = [array[order[held_out:]] for array in rows]
  if not held_out:
    return train, None
  return train, [array[order[:held_out]] for array in rows]


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
  _check_in_support(flow, name, converted[0])
  return converted


def _check_in_support(flow, name, rows):
  """Raise an `InputError` if the flow, made by `fpp.on_support`, has density 0 at a row."""
  for part in flow.submodules:
    if isinstance(part, OnSupport):
      outside = np.flatnonzero(~part.contains(rows).numpy())
      if len(outside):
        first = outside[0]
        raise InputError(
          f"`{name}` must lie in the support of the flow: row {first} does not, {rows[first]} "
          f"({len(outside)} of {len(rows)})"
        )


def _check_digits(flow, data, context=None):
  """Raise an `InputError` if the flow, or its embedding, would lose the digits in which rows differ."""
  check_resolved("`data`", _by_column(data), flow.dtype)
  if context is not None:
    name = "`context`"
    if hasattr(flow, "embedding"):
      name += ", as the embedding reads it,"
    check_resolved(name, _by_column(context), getattr(flow, "context_dtype", flow.dtype))


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
  """Adam with decay of some of the weights, which also applies the constraints of variables.

  The masks of `tfb.AutoregressiveNetwork` are such constraints.
  """

  def __init__(self, schedule, decayed, decay):
    super().__init__(schedule)
    self._decayed = {id(variable) for variable in decayed}
    self._decay = decay

  def update_step(self, gradient, variable, learning_rate):
    if id(variable) in self._decayed:
      remaining = tf.maximum(1 - learning_rate * self._decay, 0.0)
      variable.assign(variable * tf.cast(remaining, variable.dtype))
    super().update_step(gradient, variable, learning_rate)
    if getattr(variable, "constraint", None) is not None:
      variable.assign(variable.constraint(variable))


def _largest_batch(flow):
  """Return the number of rows of one evaluation, and of the data-dependent initialisation."""
  return _MOST_ROWS if len(flow.event_shape) == 1 else _MOST_IMAGES


def _log_prob(flow, x, *context):
  return _given(flow, context).log_prob(x)


def _given(flow, context):
  """Return the flow with its context, if it takes one."""
  return flow.given(*context) if context else flow


def _initialize(flow, rows):
  """Initialise a new flow from the data; evaluate any other flow once, as networks of TFP then make their weights."""
  count = len(rows[0])
  size = min(count, _largest_batch(flow))
  chosen = np.arange(size) * count // size  # from all over the rows, which may be sorted
  x, *context = [array[chosen] for array in rows]
  norms = [part for part in flow.submodules if isinstance(part, ActNorm)]
  if hasattr(flow, "initialize") and norms and not any(norm.is_initialized() for norm in norms):
    _check_no_column_is_constant(x)
    _given(flow, context).initialize(x)
  else:
    _log_prob(flow, *[array[:1] for array in rows])


def _make_state(flow, rows, steps, learning_rate, weight_decay):
  """Return the `StepState` of a training of `steps` steps on these rows."""
  variables = list(flow.trainable_variables)
  if not variables:
    raise InputError(f"`flow` must have trainable variables, {flow.name!r} has none")
  if weight_decay is None:
    weight_decay = _default_weight_decay(rows[0][..., 0].size, len(rows) > 1)
  decayed = _network_kernels(flow, variables) if weight_decay else []
  schedule = learning_rate_schedule("cosine", learning_rate, max(1, int(_WARMUP * steps)), steps)
  return StepState(
    _AdamW(schedule, decayed, weight_decay),
    variables,
    clip_norm=_CLIP_NORM,
    ema_decay=1 - 1 / max(_AVERAGED * steps, 1.0),
    ema_warmup=True,
    dtype=flow.dtype,
  )


def _network_kernels(flow, variables):
  """Return the variables that weight decay applies to: not the kernels of linear bijectors, which do not begin at 0."""
  linear = [part for part in flow.submodules if isinstance(part, (Invertible1x1Conv, Invertible1x1ConvLU))]
  linear_weights = {id(v) for part in linear for v in part.variables}
  return [v for v in variables if "kernel" in v.name and id(v) not in linear_weights]


def _train(flow, state, train, held_out, batches, steps, interval, patience, verbose):
  """Train a flow until its validation no longer improves, leave it with the best weights, return its `FitResult`."""
  train_on = _compile_step(flow, state, train)
  mean_log_prob = _compile_evaluation(flow, train)
  best = _BestWeights(flow)
  history = []
  try:
    if held_out:
      held_out = [tf.constant(array) for array in held_out]
      best.start(mean_log_prob(held_out))
    with tqdm.tqdm(total=steps, unit="step", disable=not verbose) as bar:
      for first in range(0, steps, interval):
        step = min(first + interval, steps)
        for batch in itertools.islice(batches, step - first):
          train_on(tf.constant(batch))
          bar.update(1)
        _check_not_diverged(state, step)
        train_mean = -state.means()["loss"]
        state.reset_sums()
        with state.ema_weights():
          validation = mean_log_prob(held_out) if held_out else math.nan
          if held_out:
            best.update(step, validation)
          else:
            best.keep(step)
        history.append((step, train_mean, validation))
        bar.set_postfix_str(f"train {train_mean:.3f}, validation {validation:.3f} nats")
        if best.is_stale(patience):
          break
  finally:  # after Ctrl-C too
    best.restore()
  evaluated_steps, train_means, validations = (np.array(column) for column in zip(*history))
  if not held_out:
    validations = np.empty(0)
  best_step = step if best.step is None else best.step
  return FitResult(evaluated_steps, train_means, validations, best_step, int(state.skipped_steps), flow)


def _compile_step(flow, state, rows):
  """Return a function that takes a training step on the rows with given indices."""
  rows = [tf.constant(array) for array in rows]

  def step(indices):
    batch = [tf.gather(array, indices) for array in rows]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(state.variables)
      loss = -tf.reduce_mean(_log_prob(flow, *batch))
    take_step(state, loss, tape.gradient(loss, state.variables))

  def step_in_replica(indices):
    tf.distribute.get_strategy().run(step, (indices,))

  return _compile(step_in_replica, tf.TensorSpec([None], tf.int32))


def _compile_evaluation(flow, rows):
  """Return a function that takes rows like these and returns their mean log density."""
  specs = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in rows]
  log_prob = _compile(functools.partial(_log_prob, flow), *specs)
  size = _largest_batch(flow)

  def mean_log_prob(rows):
    log_probs = []
    for first in range(0, len(rows[0]), size):
      batch = [array[first : first + size] for array in rows]
      log_probs.append(log_prob(*batch).numpy())
    return float(np.mean(np.concatenate(log_probs), dtype=np.float64))

  return mean_log_prob


def _compile(function, *specs):
  """Trace a function once; of a `tf.function` for each call of `fit`, TensorFlow would warn that it is retraced."""
  return tf.function(function, autograph=False).get_concrete_function(*specs)


def _check_not_diverged(state, step):
  """Raise `Diverged` if all of the last steps were skipped."""
  in_a_row = int(state.skipped_in_a_row)
  cause = _NO_LONGER_FINITE if step > in_a_row else _NEVER_FINITE
  raise_if_diverged(in_a_row, _MAX_SKIPPED, cause, step)


class _BestWeights:
  """The weights of a flow that had the best validation so far.

  Attributes:
    step: training step of these weights; None if no validation was finite.
  """

  def __init__(self, flow):
    self._variables = flow.variables
    self._weights = []
    self._validation = -math.inf
    self._evaluations_since = 0
    self.step = None

  def start(self, validation):
    """Keep the weights that training begins with, if their validation is finite."""
    if math.isfinite(validation):
      self.keep(0, validation)

  def update(self, step, validation):
    """Keep the current weights, if their validation is the best so far."""
    if math.isfinite(validation) and validation > self._validation:
      self.keep(step, validation)
    else:
      self._evaluations_since += 1

  def keep(self, step, validation=-math.inf):
    """Keep the current weights."""
    self._weights = [variable.numpy() for variable in self._variables]
    self._validation = validation
    self._evaluations_since = 0
    self.step = step

  def is_stale(self, patience):
    """Return whether the last `patience` evaluations were not better."""
    return self._evaluations_since >= patience

  def restore(self):
    """Give the flow the weights that were kept, if any."""
    for variable, weight in zip(self._variables, self._weights):
      variable.assign(weight)


def _batches(count, batch_size, rng):
  """Yield the indices of batches without end. The batches of an epoch hold all rows; their sizes differ by one row."""
  while True:
    yield from np.array_split(rng.permutation(count).astype(np.int32), math.ceil(count / batch_size))

"""Coupling layer, Flow++ section 3.2 (after RealNVP):

    x1, x2 = halves of the last axis of x,   g = bijector_fn(conditioner(x1)), elementwise
    y1 = x1,   y2 = g(x2)

The inverse evaluates the same conditioner, since x1 = y1; its equations and the log-det are in `Coupling`.

The conditioner is any callable, the transformation any elementwise bijector; neither knows the other.

The K components of a mixture must begin with different parameters: equal ones have equal gradients, and stay equal. A
conditioner's last layer must therefore not begin at zero.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, evaluate
from flowpp_tf.bijectors.parameters import Parameter
from flowpp_tf.core.checks import as_dtype, check_arguments, check_count
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.keras_parts import tf_variable, warn_of_closures
from flowpp_tf.core.remat import checkpointed, in_stateless_scope
from flowpp_tf.core.tensors import flatten_batch, shape_of


class Coupling(Bijector):
  r"""Keep the first values of the last axis, and transform the others, given these.

  With x1, x2 the halves of the last axis and g(.; theta) the elementwise bijector of `bijector_fn`:

      theta = conditioner(x1)                      the same in both directions, since x1 = y1
      forward:  y1 = x1,   y2 = g(x2; theta)
      inverse:  x1 = y1,   x2 = g^-1(y2; theta)
      log-det:  log|det dy/dx| = sum_j log|dg(x2_j; theta_j) / dx2_j|

  The Jacobian is triangular, so the conditioner is neither inverted nor differentiated for the log-det.

  $$
  \log \left| \det \frac{\partial y}{\partial x} \right|
  = \sum_j \log \left| \frac{\partial g(x_{2,j}; \theta_j)}{\partial x_{2,j}} \right|
  $$

  Args:
    conditioner: callable `x1 -> parameters`, or `(x1, ctx=...) -> parameters` if evaluations come with an
      `EvalContext`. It is called once per evaluation with `x1 [N, ..., C / 2]`; its batch dimensions, and the batch
      dimensions of the context's condition, are flattened into one. If the conditioner has `variables` (a Keras layer,
      built), they are tracked: `coupling.trainable_variables` lists them. Variables that a function or `bijector_fn`
      reads are not tracked, and nothing trains them unless you name them to the optimizer: a warning says so for layers
      that a function names itself. Give the layer itself, and a context by `Conditioned`. The conditioner may compute
      in a lower precision, as under Keras's policy "mixed_bfloat16": its result is cast to `dtype`.
    bijector_fn: callable `parameters -> elementwise bijector` that transforms `x2 [..., C / 2]`. Exports as graphs need
      a `CouplingMap` or `affine_coupling_bijector`, which say what they compute.
    event_ndims: rank of an event: 3 for images `[H, W, C]`, 1 for vectors.
    dtype: of the values.
    kept: how many values of the last axis are kept, the first; None for half of them. Of 0 the conditioner reads the
      context only.
    remat: whether gradients keep only `x` and compute the conditioner and the transformation again; not in a
      `keras.StatelessScope`, as `stateless_call` opens.

  An event of the context's condition has as many dimensions as an event of `x`. The condition is broadcast over the
  batch dimensions of `x`; `Conditioned` makes it a part of the bijector. The log-det is in nats per event.

  Raises:
    InputError (a ValueError): if `conditioner` is a Keras layer that is not built, whose weights could not be tracked;
      from an evaluation, if the last axis cannot be split, if there are parameters for another number of values than
      are transformed, or if the condition has fewer dimensions than an event.

  Examples:
    >>> outputs = 3 * fpp.bijectors.num_parameters("affine", 0)
    >>> network = keras.Sequential([keras.Input([3]), keras.layers.Dense(outputs)])
    >>> coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector, event_ndims=1)
    >>> y, log_det = coupling.forward_and_log_det(tf.zeros([2, 6]))
  """

  @check_arguments
  def __init__(
    self,
    conditioner: Callable[..., Any],
    bijector_fn: Callable[[Any], tfp.bijectors.Bijector],
    event_ndims: int = 3,
    dtype: Any = tf.float32,
    kept: int | None = None,
    remat: bool = False,
    validate_args: bool = False,
    name: str = "coupling",
  ) -> None:
    parameters = dict(locals())
    check_count("event_ndims", event_ndims)
    if kept is not None:
      check_count("kept", kept, 0)
    if not getattr(conditioner, "built", True):
      raise InputError(
        f"`conditioner` must be built before a `Coupling` is made of it, got the new layer {conditioner}"
      )
    self._conditioner = conditioner
    self._conditioner_variables = [tf_variable(v) for v in getattr(conditioner, "variables", ())]
    self._bijector_fn = bijector_fn
    self._event_ndims = event_ndims
    self._kept = kept
    self._remat = remat
    super().__init__(forward_min_event_ndims=event_ndims, dtype=as_dtype("dtype", dtype), parameters=parameters)
    warn_of_closures(self, "`conditioner`", conditioner)
    warn_of_closures(self, "`bijector_fn`", bijector_fn)

  conditioner = Parameter("The callable `x1 -> parameters`.")
  bijector_fn = Parameter("The callable `parameters -> elementwise bijector`.")
  kept = Parameter("How many values of the last axis are kept; None for half of them.")
  remat = Parameter("Whether gradients keep only `x`.")
  event_ndims = Parameter("Rank of an event.")

  def _evaluate(self, x, inverse, ctx):
    # Variables must not be set twice. Gradients of `stateless_call` are taken after its `keras.StatelessScope`, where
    # the second evaluation would read other weights.
    sets_variables = ctx is not None and ctx.sets_variables
    if not self.remat or sets_variables or in_stateless_scope():
      return self._transform(x, inverse, self.event_ndims, ctx)

    def transform(x, condition=None):  # only arguments have a gradient
      evaluation_ctx = ctx if condition is None else ctx.with_condition(condition)
      return self._transform(x, inverse, self.event_ndims, evaluation_ctx)

    if ctx is None or ctx.condition is None:
      return checkpointed(transform)(x)
    return checkpointed(transform)(x, ctx.condition)

  def _transform(self, x, inverse, event_ndims, ctx):
    """Return y, and the log-det of the transformed values, summed over `event_ndims`."""
    x1, x2 = self._split(x)
    parameters = self._condition(x1, ctx)
    bijector = self._make_bijector(parameters, x2)
    y2, log_det = evaluate(bijector, x2, inverse, event_ndims)
    return tf.concat([x1, y2], axis=-1), log_det

  def _split(self, x):
    """Return the values that are kept, and the values that are transformed."""
    size = x.shape[-1]
    parts: int | list[Any]
    if self.kept is None:
      parts = 2
      fits = size is None or (size > 0 and size % 2 == 0)
      wanted = "an even last axis"
    else:
      parts = [self.kept, shape_of(x)[-1] - self.kept]
      fits = size is None or size > self.kept
      wanted = f"a last axis longer than `kept` {self.kept}"
    if not fits:
      raise InputError(f"`x` or `y` must have {wanted}, got shape {[*x.shape]}")
    return tf.split(x, parts, axis=-1)

  def _condition(self, x1, ctx):
    """Return the parameters that the conditioner gives for x1, which it sees with one batch dimension."""
    flat_x1, restore_batch = flatten_batch(x1, self.event_ndims)
    if ctx is None:
      parameters = self.conditioner(flat_x1)
    else:
      condition = self._flat_condition(ctx.condition, x1)
      parameters = self.conditioner(flat_x1, ctx=ctx.with_condition(condition))
    return tf.nest.map_structure(lambda p: restore_batch(tf.cast(p, x1.dtype)), parameters)

  def _flat_condition(self, condition, x1):
    """Return the condition of the context with one batch dimension, broadcast to the batch of x1 if that has others."""
    if condition is None:
      return None
    if len(condition.shape) < self.event_ndims:
      raise InputError(f"`condition` must have an event of {self.event_ndims} dimensions, got {[*condition.shape]}")
    batch_ndims = len(x1.shape) - self.event_ndims
    if batch_ndims == 1 and len(condition.shape) > self.event_ndims:
      return condition
    if batch_ndims == 1:
      return condition[tf.newaxis]
    event = shape_of(condition)[-self.event_ndims :]
    condition = tf.broadcast_to(condition, [*shape_of(x1)[:batch_ndims], *event])
    return flatten_batch(condition, self.event_ndims)[0]

  def _make_bijector(self, parameters, x2):
    """Return the bijector of x2; raise an `InputError` if it is one of other values, which would be broadcast."""
    bijector = self.bijector_fn(parameters)
    if bijector.forward_min_event_ndims:
      raise InputError(f"`bijector_fn` must return an elementwise bijector, got {bijector.name!r} of vectors")
    sizes = bijector.experimental_batch_shape(x_event_ndims=0)[-1:]
    if sizes and not sizes.is_compatible_with(x2.shape[-1:]):
      raise InputError(
        f"the conditioner gives parameters for {sizes[0]} values, but {x2.shape[-1]} are transformed, of `x` or `y`"
      )
    return bijector


def forward_and_elementwise_log_det(
  coupling: Coupling, x: tf.Tensor, ctx: EvalContext | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
  """Return y, and the log-det of each of its values in nats, 0 for the values that are kept."""
  y, log_det = coupling._transform(x, False, 0, ctx)
  x1, x2 = coupling._split(x)
  log_det += tf.zeros_like(x2)
  return y, tf.concat([tf.zeros_like(x1), log_det], axis=-1)

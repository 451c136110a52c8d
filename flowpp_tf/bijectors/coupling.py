"""Coupling layer, Flow++ section 3.2 (after RealNVP):

    x1, x2 = halves of the last axis of x,   g = bijector_fn(conditioner(x1)), elementwise
    y1 = x1,   y2 = g(x2)

The inverse evaluates the same conditioner, since x1 = y1; its equations and the log-det are in `Coupling`.

The conditioner is any callable, the transformation any elementwise bijector; neither knows the other.

The K components of a mixture must begin with different parameters: equal ones have equal gradients, and stay equal. A
conditioner's last layer must therefore not begin at zero.
"""

from collections.abc import Callable
import contextlib
import functools
import re
from typing import Any, NamedTuple
import warnings

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.affine import BoundedAffine
from flowpp_tf.bijectors.base import Bijector, Parameter, forward_and_log_det, inverse_and_log_det
from flowpp_tf.bijectors.chain import Chain
from flowpp_tf.bijectors.logit_margin import LogitMargin
from flowpp_tf.bijectors.mixture_logistic_cdf import LogitMixtureLogisticCDF
from flowpp_tf.core.checks import as_dtype, as_tensor, check_arguments, check_count, check_number, check_type, shown
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import COUPLINGS, register, registered
from flowpp_tf.core.remat import checkpointed
from flowpp_tf.core.tensors import reshape, shape_of

SMALLEST_LOG_SCALE = -7.0


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
      `EvalContext`. It is called once per evaluation with `x1 [N, ..., C / 2]`, all batch dimensions flattened into
      one, as are those of the context's condition. If it has `variables` (a Keras layer, built), they are tracked:
      `coupling.trainable_variables` lists them. Those that a function or `bijector_fn` closes over are not, and nothing
      trains them unless you name them to the optimizer: the first evaluation warns. Give the layer itself, and a
      context by `Conditioned`. It may compute in a lower precision, as under Keras's policy
      "mixed_bfloat16": its result is cast to `dtype`.
    bijector_fn: callable `parameters -> elementwise bijector` that transforms `x2 [..., C / 2]`.
    event_ndims: rank of an event: 3 for images `[H, W, C]`, 1 for vectors.
    dtype: of the values.
    kept: how many values of the last axis are kept, the first; None for half of them.
    remat: whether gradients keep only `x` and compute the conditioner and the transformation again.

  The condition of the context, if there is one, has an event of as many dimensions as that of `x`, and is broadcast
  over the batch dimensions of `x`; `Conditioned` makes it a part of the bijector. The log-det is in nats per event.

  Raises:
    ValueError: if `conditioner` is a Keras layer that is not built, whose weights could not be tracked; from an
      evaluation, if the last axis cannot be split, if there are parameters for another number of values than are
      transformed, or if the condition has fewer dimensions than an event.

  Examples:
    >>> outputs = 3 * fpp.bijectors.num_parameters("affine", 0)
    >>> network = keras.Sequential([keras.Input([3]), keras.layers.Dense(outputs)])
    >>> coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector, event_ndims=1)
    >>> y, log_det = coupling.forward_and_log_det(tf.zeros([2, 6]))
  """

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
    for name_of, value in (("conditioner", conditioner), ("bijector_fn", bijector_fn)):
      if not callable(value):
        raise InputError(f"`{name_of}` must be callable, got {shown(value)}")
    check_count("event_ndims", event_ndims)
    check_type("remat", remat, bool)
    check_type("kept", kept, int | None)
    if kept is not None and kept < 1:
      raise ValueError(f"`kept` must be a positive integer or None, got {kept}")
    if not getattr(conditioner, "built", True):
      raise ValueError(
        f"`conditioner` must be built before a `Coupling` is made of it, got the layer {conditioner} that is not"
      )
    with tf.name_scope(name) as name:
      self._conditioner = conditioner
      self._bijector_fn = bijector_fn
      self._kept = kept
      self._remat = remat
      self._read_before: set[str] = set()  # which of the two functions has been called
      self._conditioner_variables = [
        v if isinstance(v, tf.Variable) else v.value for v in getattr(conditioner, "variables", ())
      ]
      super().__init__(
        forward_min_event_ndims=event_ndims,
        dtype=as_dtype("dtype", dtype),
        validate_args=validate_args,
        parameters=parameters,
        name=name,
      )

  conditioner = Parameter("The callable `x1 -> parameters`.")
  bijector_fn = Parameter("The callable `parameters -> elementwise bijector`.")
  kept = Parameter("How many values of the last axis are kept; None for half of them.")
  remat = Parameter("Whether gradients keep only `x`.")

  @property
  def event_ndims(self) -> int:
    """Rank of an event."""
    return self.forward_min_event_ndims

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict()

  def _transform(self, evaluate, x, ctx, remat=True):
    if remat and self.remat and not (ctx and ctx.sets_variables):
      return self._rematerialized(evaluate, x, ctx)
    x1, x2 = _halves(x, self.kept)
    flat_x1, flat_ctx, batch_shape = _with_flat_batch(x1, self.event_ndims, ctx)
    try:
      given = {} if ctx is None else {"ctx": flat_ctx}
      parameters = self._call_tracked("conditioner", flat_x1, **given)
    except (tf.errors.InvalidArgumentError, ValueError) as error:
      if not re.search("ncompatible|Dimensions must be equal", str(error)) or "calling" in str(error):
        raise  # not TensorFlow's, of the shapes of one operation
      context = "" if ctx is None or ctx.condition is None else f" and `context` {ctx.condition.shape}"
      first, *_ = str(error).splitlines()
      reason = first.partition("}} ")[2] if first.startswith("{{") else first.partition(" for '{{")[0]
      raise InputError(
        f"`x` or `y` of shape {x.shape}{context} do not fit the conditioner of {self.name!r}: {reason[:100]}"
      ) from None
    parameters = tf.nest.map_structure(lambda p: _unflattened(p, batch_shape, x.dtype), parameters)
    bijector = self._call_tracked("bijector_fn", parameters)
    _check_size(bijector, x2)
    y2, log_det = evaluate(bijector, x2, self.event_ndims)
    return tf.concat([x1, y2], axis=-1), log_det

  _forward_and_log_det = functools.partialmethod(_transform, forward_and_log_det)
  _inverse_and_log_det = functools.partialmethod(_transform, inverse_and_log_det)

  def _call_tracked(self, name, *arguments, **given):
    """Call `conditioner` or `bijector_fn`; warn at the first call if it reads variables that nothing tracks."""
    function = getattr(self, name)
    if name in self._read_before or hasattr(function, "variables"):
      return function(*arguments, **given)
    self._read_before.add(name)
    with tf.GradientTape() as tape:
      result = function(*arguments, **given)
    read = {id(v): v for v in (*tape.watched_variables(), *getattr(result, "trainable_variables", ()))}
    if untracked := read.keys() - {id(v) for v in self.trainable_variables}:
      warnings.warn(
        f"`{name}` of {self.name!r} reads {len(untracked)} trainable variables that its `trainable_variables` lacks: "
        "an optimizer of these does not train them. Give the Keras layer itself as `conditioner`, "
        "and a context by `Conditioned`",
        stacklevel=2,
      )
    return result

  def _rematerialized(self, evaluate, x, ctx):
    # Only arguments and variables have a gradient; a `keras.StatelessScope`, as of `stateless_call`, replaces these by
    # tensors, and may have ended when the gradient is taken.
    condition = [] if ctx is None or ctx.condition is None else [ctx.condition]
    scoped = _values_in_scope(getattr(self.conditioner, "variables", ()))
    floating = [variable for variable, value in scoped if value.dtype.is_floating]
    fixed = [(variable, value) for variable, value in scoped if not value.dtype.is_floating]

    def transform(x, *tensors):
      count = len(tensors) - len(floating)
      inner = ctx.with_condition(*tensors[:count]) if count else ctx
      values = [*fixed, *zip(floating, tensors[count:])]
      with keras.StatelessScope(values, initialize_variables=False) if values else contextlib.nullcontext():
        return self._transform(evaluate, x, inner, remat=False)

    return checkpointed(transform)(x, *condition, *(value for _, value in scoped if value.dtype.is_floating))


def _values_in_scope(variables):
  """Return the Keras variables that the present `keras.StatelessScope` has values for, each with its tensor."""
  with keras.StatelessScope(initialize_variables=False) as inner:
    scope = inner.original_scope
  of_keras = [] if scope is None else [v for v in variables if isinstance(v, keras.Variable)]
  values = [(v, scope.get_current_value(v)) for v in of_keras]
  return [(variable, tf.convert_to_tensor(value)) for variable, value in values if value is not None]


def forward_and_log_det_of_values(
  coupling: Coupling, x: tf.Tensor, ctx: EvalContext | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
  """Return y, and the log-det of each of its values, nats: 0 for those that are kept."""
  elementwise = lambda bijector, x2, event_ndims: forward_and_log_det(bijector, x2)
  y, log_det = coupling._transform(elementwise, x, ctx, remat=False)
  x1, x2 = _halves(x, coupling.kept)
  return y, tf.concat([tf.zeros_like(x1), log_det + tf.zeros_like(x2)], axis=-1)


def _halves(x, kept):
  """Return the values that are kept, and those that are transformed."""
  size = x.shape[-1]
  if size is not None and (size % 2 or not size if kept is None else size <= kept):
    needed = "an even last axis" if kept is None else f"a last axis longer than `kept` {kept}"
    raise ValueError(f"`Coupling` needs {needed}, got `x` or `y` of shape {x.shape}")
  return tf.split(x, 2 if kept is None else [kept, shape_of(x)[-1] - kept], axis=-1)


def _with_flat_batch(x1, event_ndims, ctx):
  """Return x1 and the context with one batch dimension, and the batch shape, None if that is what it was before."""
  batch_ndims, condition = len(x1.shape) - event_ndims, ctx and ctx.condition
  if condition is not None and len(condition.shape) < event_ndims:
    raise ValueError(
      f"the condition must have an event of {event_ndims} dimensions, as `x` has, got shape {tuple(condition.shape)}"
    )
  if batch_ndims == 1:
    of_all = condition is not None and len(condition.shape) == event_ndims
    return x1, ctx.with_condition(condition[tf.newaxis]) if of_all else ctx, None
  batch_shape = shape_of(x1)[:batch_ndims]
  flatten = lambda t: tf.reshape(t, [-1, *shape_of(t)[batch_ndims:]])
  if condition is not None:
    condition = tf.broadcast_to(condition, [*batch_shape, *shape_of(condition)[-event_ndims:]])
    ctx = ctx.with_condition(flatten(condition))
  return flatten(x1), ctx, batch_shape


def _unflattened(parameters, batch_shape, dtype):
  parameters = tf.cast(parameters, dtype)
  return parameters if batch_shape is None else reshape(parameters, [*batch_shape, *shape_of(parameters)[1:]])


def _check_size(bijector, x2):
  """Raise if the parameters are not those of the values that are transformed (they would broadcast silently)."""
  if bijector.forward_min_event_ndims:
    raise ValueError(f"`bijector_fn` must return an elementwise bijector, got {bijector.name!r} of vectors")
  sizes = bijector.experimental_batch_shape(x_event_ndims=0)[-1:]
  if sizes and not sizes.is_compatible_with(x2.shape[-1:]):
    raise ValueError(
      f"the conditioner gives parameters for {sizes[0]} values, but {x2.shape[-1]} are transformed, of `x` or `y`"
    )


class CouplingKind(NamedTuple):
  """The transformation of a kind of coupling; core/registry.py names the kinds.

  Attributes:
    num_parameters: function of the number of components K, which returns how many parameters a conditioner gives for
      each transformed value.
    bijector_fn: function `(parameters [..., C num_parameters], components) -> elementwise bijector` of `[..., C]`.

  Examples:
    >>> shift = fpp.bijectors.CouplingKind(lambda components: 1, lambda p, components: tfp.bijectors.Shift(p))
    >>> shift.num_parameters(8)
    1
  """

  num_parameters: Callable[[int], int]
  bijector_fn: Callable[[Any, int], tfp.bijectors.Bijector]


def num_parameters(coupling: str, components: int) -> int:
  """Return how many parameters a conditioner gives for each transformed value.

  Args:
    coupling: kind of coupling, such as "mixture_logistic" (2 + 3 `components`) or "affine" (2).
    components: K, the number of logistics in the mixture.

  Raises:
    ValueError: if there is no such kind.

  Examples:
    >>> fpp.bijectors.num_parameters("mixture_logistic", components=8)
    26
  """
  check_count("components", components, 0, 2**63 - 1)
  if not isinstance(coupling, str) or coupling not in COUPLINGS:
    raise ValueError(f"`coupling` must be {' or '.join(COUPLINGS)}, got {coupling!r}")
  return registered(COUPLINGS, coupling).num_parameters(components)


@check_arguments
def register_coupling(name: str, kind: CouplingKind) -> None:
  """Give a kind of coupling a name, for configs; programs import a module that calls this by --import=MODULE.

  Args:
    name: for `coupling` of a config, and for --coupling.
    kind: the transformation.

  Raises:
    InputError (a ValueError): if there is a coupling of that name.

  Examples:
    >>> shift = fpp.bijectors.CouplingKind(lambda components: 1, lambda p, components: tfp.bijectors.Shift(p))
    >>> fpp.register_coupling("shift", shift)
    >>> fpp.Recipe.load("digits").replace(coupling="shift").config.coupling
    'shift'
  """
  register("coupling", COUPLINGS, name, kind)


def affine_coupling_bijector(parameters: tf.Tensor) -> BoundedAffine:
  """Return the paper's affine coupling, y = x exp(tanh s) + t, with log-det tanh(s) nats per value.

  Args:
    parameters: `[..., C 2]`; for each value in the order scale, shift.

  Raises:
    ValueError: if the last axis is odd.

  Examples:
    >>> bijector = fpp.bijectors.affine_coupling_bijector(tf.constant([[0.0, 1.0, 0.0, 2.0]]))  # of two values
    >>> bijector.forward(tf.zeros([1, 2])).numpy()
    array([[1., 2.]], dtype=float32)
  """
  s, t = tf.unstack(per_value(as_tensor("parameters", parameters, None, tf.float32), 2), axis=-1)
  return BoundedAffine(scale_logit=s, shift=t)


def mixture_logistic_coupling_bijector(parameters: tf.Tensor, components: int, margin: float = 0.0) -> Chain:
  r"""Return equation 11: affine after the logit of the mixture CDF.

      F(x) = sum_i pi_i sigmoid((x - mu_i) / s_i),   pi = softmax(logits)
      y = exp(tanh a) logit(F(x)) + b
      log-det = tanh a + log F'(x) - log F(x) - log(1 - F(x)), nats per value

  $$
  y = e^{\tanh a} \operatorname{logit}\left(
  \sum_{i=1}^{K} \pi_i \, \sigma\left( \frac{x - \mu_i}{s_i} \right) \right) + b
  $$

  Args:
    parameters: `[..., C (2 + 3 K)]`; for each value in the order scale, shift, K logits, K means, K log scales. Log
      scales are kept >= -7.
    components: K.
    margin: m in [0, 1/2), 0.05 in VFlow: the affine map comes after logit((1 - 2 m) F + m), F the CDF. With m > 0 this
      is not onto the reals; what its inverse does outside of its range is said in `LogitMargin`.

  Raises:
    ValueError: if the last axis is not a multiple of 2 + 3 K, or for another margin.

  Examples:
    >>> parameters = tf.zeros([5, 2 * fpp.bijectors.num_parameters("mixture_logistic", 4)])  # of two values
    >>> fpp.bijectors.mixture_logistic_coupling_bijector(parameters, components=4).forward(tf.zeros([5, 2])).shape
    TensorShape([5, 2])
  """
  check_count("components", components)
  check_number("margin", margin, 0)
  parameters = per_value(as_tensor("parameters", parameters, None, tf.float32), 2 + 3 * components)
  s, t, logits, loc, log_scale = tf.split(parameters, [1, 1, *[components] * 3], axis=-1)
  s, t = tf.squeeze(s, axis=-1), tf.squeeze(t, axis=-1)
  log_scale = tf.maximum(log_scale, tf.constant(SMALLEST_LOG_SCALE, log_scale.dtype))
  logit = LogitMixtureLogisticCDF(logits, loc, log_scale)
  return Chain([BoundedAffine(scale_logit=s, shift=t), *([LogitMargin(margin)] if margin else []), logit])


def _affine_without_components(parameters, components):  # by name, as a lambda cannot be pickled
  del components
  return affine_coupling_bijector(parameters)


def per_value(parameters: tf.Tensor, size: int) -> tf.Tensor:
  """Return parameters `[..., C size]` as `[..., C, size]`; raise a `ValueError` if they are not of that many."""
  if not parameters.shape.rank or not parameters.shape[-1] or parameters.shape[-1] % size:
    raise ValueError(
      f"the conditioner must give {size} parameters for each transformed value, got "
      f"parameters of shape {parameters.shape}"
    )
  return reshape(parameters, [*shape_of(parameters)[:-1], parameters.shape[-1] // size, size])


MIXTURE_LOGISTIC = CouplingKind(lambda components: 2 + 3 * components, mixture_logistic_coupling_bijector)
AFFINE = CouplingKind(lambda components: 2, _affine_without_components)

"""A normalizing flow as a TFP distribution: log p(x) = log p(z) + log|det dz/dx| (change of variables)."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from jaxtyping import Float
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.distributions import transformed_distribution

from flowpp_tf.bijectors.base import evaluate, evaluate_checked
from flowpp_tf.bijectors.conditioned import Conditioned, context_size
from flowpp_tf.bijectors.normalization import ActNorm
from flowpp_tf.bijectors.parameters import check_broadcast, is_composite
from flowpp_tf.core.checks import as_sample_shape, as_tensor, check_all_finite, check_event, check_type
from flowpp_tf.core.context import EvalContext, tfp_seed
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.keras_parts import warn_if_untracked, without_frozen
from flowpp_tf.types import TensorLike

tfd = tfp.distributions


# The class of what `tfd.TransformedDistribution(...)` returns for bijectors that hold networks. A subclass of the
# public class would be a composite tensor, in which `tf.Module`s do not find the networks' variables.
class FlowDistribution(transformed_distribution._TransformedDistribution):
  r"""`tfd.TransformedDistribution` that evaluates its bijector once for the value and the log-det.

  With f the inverse of `bijector`, from data to latents, the density is log p(x) = log p(f(x)) + log|det df/dx|:

  $$
  \log p(x) = \log p_z(f(x)) + \log \left| \det \frac{\partial f(x)}{\partial x} \right|
  $$

  Args:
    distribution: the base distribution.
    bijector: from samples of the base to samples of this distribution.

  Methods that evaluate the bijector, such as `log_prob(x, ctx=None)` and `sample(n, ctx=None)`, take an `EvalContext`.
  Every evaluation sees the current weights, in eager mode on the same tensor too. If base and bijector are composite
  tensors, so is the flow.

  The KL divergence of two flows is known if they have equal bijectors and contexts: it is the KL divergence of their
  bases. The CDF, the survival function and quantiles exist for flows of scalars.

  Examples:
    >>> network = fpp.layers.DenseConditioner(3, 3 * fpp.bijectors.num_parameters("affine", 0))
    >>> coupling = fpp.bijectors.Coupling(network, fpp.bijectors.affine_coupling_bijector, event_ndims=1)
    >>> normal = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 6)
    >>> to_data = fpp.bijectors.Invert(coupling)  # the coupling goes from data to latents
    >>> flow = fpp.distributions.FlowDistribution(normal, to_data)
    >>> flow.log_prob(tf.zeros([2, 6])).shape
    TensorShape([2])
  """

  def __new__(cls, distribution: Any = None, bijector: Any = None, *args: Any, **kwargs: Any) -> FlowDistribution:
    if cls is FlowDistribution and is_composite(distribution) and is_composite(bijector):  # subclasses have others
      cls = _CompositeFlow
    return super().__new__(cls)

  def __init__(
    self,
    distribution: tfp.distributions.Distribution,
    bijector: tfp.bijectors.Bijector,
    validate_args: bool = False,
    parameters: dict[str, Any] | None = None,
    name: str = "flow",
  ) -> None:
    parameters = dict(locals()) if parameters is None else parameters
    check_type("distribution", distribution, tfd.Distribution)
    check_type("bijector", bijector, tfp.bijectors.Bijector)
    event_shape = distribution.event_shape
    least = bijector.forward_min_event_ndims
    if isinstance(event_shape, tf.TensorShape) and event_shape.rank is not None and event_shape.rank < least:
      raise InputError(f"`distribution` must have an event of {least} dimensions, as `bijector` has, got {event_shape}")
    self._context_size = context_size(bijector)
    self._source: Any = None
    self._tracking_checked = False  # whether a Keras layer that evaluates the flow has its weights
    super().__init__(distribution, bijector, _all_to_bijector, validate_args, parameters, name)

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return super()._parameter_properties(dtype, num_classes)  # TFP asks a subclass to say so

  @property
  def trainable_variables(self) -> tuple[tf.Variable, ...]:
    """The variables to train: frozen ones, and variables of frozen Keras layers, are left out."""
    return without_frozen(self, super().trainable_variables)

  @property
  def context_size(self) -> int | None:
    """Size of the last axis of the context; 0 for a flow without one, None if its conditioners do not say."""
    return self._context_size

  @property
  def context_shape(self) -> tuple[int | None, ...]:
    """Shape of the context of one value, as `given` takes it; a size is None where the context may have any."""
    return (*([None] * (len(self.event_shape) - 1)), self.context_size)

  @property
  def source(self) -> Any:
    """The `FlowSource`, by which the flow can be made again; raise an `InputError` if the flow has none."""
    if self._source is None:
      raise InputError(
        f"{self.name!r} cannot be made again, to be saved, pickled or trained as several members: a flow of "
        "`vector_flow`, `image_flow` or `ensemble` can, before it is given a context"
      )
    return self._source

  def __reduce_ex__(self, protocol: Any) -> Any:
    if self._source is None:
      with contextlib.suppress(TypeError):  # TFP cannot make some distributions again, such as `Sample`
        copy.deepcopy(self.distribution)
        return super().__reduce_ex__(protocol)
    return self.source.reduced(self)

  def __copy__(self) -> FlowDistribution:
    flow = self.copy()  # with the same weights
    flow._source = self._source
    return flow

  def __repr__(self) -> str:
    more = f" context_size={self.context_size}" if self.context_size else ""
    return f"{super().__repr__()[:-1]}{more}>"

  def given(self, context: Any) -> FlowDistribution:
    """Return the distribution given a context, whose batch and the batch of this one are broadcast.

    Args:
      context: tensor or variable, as in `bijectors.Conditioned`: `[..., C]` for a flow of vectors.

    Raises:
      ValueError: if this flow is given a context already, or takes none; for a context of another size, or of fewer
        dimensions than an event.

    Examples:
      >>> flow = fpp.vector_flow(2, context_size=3)
      >>> flow.given(tf.zeros([5, 3])).batch_shape
      TensorShape([5])
    """
    if isinstance(self.bijector, Conditioned):
      raise InputError(f"{self.name!r} is given a context already: call `given` on the flow without one")
    if self.context_size == 0:
      raise InputError(f"{self.name!r} takes no context: it was made with `context_size` 0")
    self._check_tracked()
    bijector = Conditioned(self.bijector, context)
    check_all_finite("context", tf.convert_to_tensor(bijector.context))
    shape = bijector.context.shape
    if self.context_size is not None and shape.rank is not None:
      if shape[-1] not in (None, self.context_size):
        raise InputError(f"`context` must be of shape [..., {self.context_size}], got {[*shape]}")
    flow = FlowDistribution(self.distribution, bijector, self.validate_args, name=f"{self.name}_given")
    flow._tracking_checked = True
    return flow

  def initialize(self, x: TensorLike, overwrite: bool = False) -> Float[tf.Tensor, "..."]:
    """Set the weights of layers that normalise, such as `ActNorm`, by a batch of data (data-dependent initialisation).

    Args:
      x: values, `[N, *event_shape]`, N at least 2, better 64 or more.
      overwrite: whether to initialise a flow again whose `ActNorm` layers have other weights than new ones, as they
        were initialised, trained or loaded.

    Returns:
      The log density of x under the initialised weights, `[N]` nats.

    Raises:
      ValueError: for values that are not finite, for fewer than two, or if the flow is initialised already.

    Examples:
      >>> flow = fpp.vector_flow(2)
      >>> flow.initialize(tf.random.normal([64, 2])).shape
      TensorShape([64])
    """
    check_type("overwrite", overwrite, bool)
    x = self._event("x", x, self)
    is_single = x.shape.rank == self.event_shape.rank
    if is_single or x.shape[0] in (0, 1):
      raise InputError(f"`x` must be a batch of two or more values, got shape {[*x.shape]}")
    if tf.executing_eagerly():
      check_all_finite("x", x)
      if not overwrite and any(part.is_initialized() for part in self.submodules if isinstance(part, ActNorm)):
        raise InputError(f"{self.name!r} is initialised already: give `overwrite=True` to replace its weights")
    return self.log_prob(x, ctx=EvalContext(initialize=True))

  def transform(
    self, base_sample: TensorLike, ctx: EvalContext | None = None
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Return a sample of this distribution, made from one of the base, and its log density.

    Args:
      base_sample: value of the base distribution, `[..., *event_shape]`.
      ctx: as in `Bijector.forward_and_log_det`.

    Returns:
      The sample, and its log density in nats, `[...]`.
    """
    base_sample = self._event("base_sample", base_sample, self.distribution)
    self._check_context(ctx)
    event_ndims = len(self.distribution.event_shape)
    y, log_det = evaluate_checked(self, "base_sample", base_sample, self.bijector, False, event_ndims, ctx)
    return y, self.distribution.log_prob(base_sample) - log_det

  def log_prob(self, value: TensorLike, name: str = "log_prob", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    """Return the log density of values `[..., *event_shape]`, `[...]` nats; NaN for NaN.

    Raises:
      ValueError: for values of another shape or dtype, and for a flow with a context that is not `given` one.
    """
    return super().log_prob(self._event("x", value, self), name, **kwargs)

  def prob(self, value: TensorLike, name: str = "prob", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    """Return exp(log_prob(value))."""
    return super().prob(self._event("x", value, self), name, **kwargs)

  def sample(
    self, sample_shape: Any = (), seed: Any = None, name: str = "sample", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    """Draw samples, `[*sample_shape, *batch_shape, *event_shape]`, as in TFP; a seed draws the same in each call."""
    self._check_context(_checked(kwargs).get("ctx"))
    return super().sample(as_sample_shape("sample_shape", sample_shape), tfp_seed(seed), name, **kwargs)

  def experimental_sample_and_log_prob(
    self, sample_shape: Any = (), seed: Any = None, name: str = "sample_and_log_prob", **kwargs: Any
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Draw samples together with their log densities, as in TFP."""
    shape = as_sample_shape("sample_shape", sample_shape)
    return super().experimental_sample_and_log_prob(shape, tfp_seed(seed), name, **kwargs)

  def _event(self, name, value, distribution):
    """Return a value of this flow or of its base as a tensor, whose event is checked: parameters would broadcast it."""
    value = as_tensor(name, value, distribution.dtype)
    event_shape = distribution.event_shape
    check_event(name, value.shape, event_shape)
    if event_shape.rank is not None:
      batch = tf.TensorSpec(value.shape[: len(value.shape) - len(event_shape)])
      check_broadcast(**{name: batch, "batch_shape": tf.TensorSpec(self.batch_shape)})
    return value

  def _check_tracked(self):
    if not self._tracking_checked:
      self._tracking_checked = warn_if_untracked(self)

  def _check_context(self, ctx):
    self._check_tracked()
    check_type("ctx", ctx, EvalContext | None)
    if self.context_size and not isinstance(self.bijector, Conditioned) and (ctx is None or ctx.condition is None):
      raise InputError(
        f"{self.name!r} needs a context: use `flow.given(context)`, `context` of shape [..., {self.context_size}]"
      )

  def _log_prob(self, y, **kwargs):
    ctx = _checked(kwargs).get("ctx")
    self._check_context(ctx)
    x, log_det = evaluate_checked(self, "x", y, self.bijector, True, len(self.event_shape), ctx)
    return self.distribution.log_prob(x) + log_det

  # --- Flows of scalars -------------------------------------------------------------------------

  # TFP's formulas hold for scalars. The joint CDF of a vector does not give survival, decreasing bijectors, or the mass
  # of a box, which quantization needs.

  def _check_scalar(self, error):
    if self.event_shape.rank:
      raise error(f"{self.name!r} has vectors for events: its CDF and quantiles are not implemented")

  @property
  def _cdf(self):  # TFP asks by `hasattr` whether a distribution has a CDF
    self._check_scalar(AttributeError)
    return super()._cdf

  @property
  def _log_cdf(self):
    self._check_scalar(AttributeError)
    return super()._log_cdf

  def _survival_function(self, value, **kwargs):
    self._check_scalar(NotImplementedError)
    return super()._survival_function(value, **kwargs)

  def _log_survival_function(self, value, **kwargs):
    self._check_scalar(NotImplementedError)
    return super()._log_survival_function(value, **kwargs)

  def _quantile(self, value, **kwargs):
    self._check_scalar(NotImplementedError)
    return super()._quantile(value, **kwargs)

  def _entropy(self, **kwargs):
    if not self.bijector.is_constant_jacobian:
      raise NotImplementedError(f"the entropy of {self.name!r} has no closed form: estimate it by samples")
    zeros = tf.zeros(self.event_shape_tensor(), self.dtype)
    _, log_det = evaluate(self.bijector, zeros, True, len(self.event_shape), **_checked(kwargs))
    return tf.broadcast_to(self.distribution.entropy() - log_det, self.batch_shape_tensor())

  def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
    base = self.distribution
    if base.batch_shape != self.batch_shape:
      base = tfd.BatchBroadcast(base, self.batch_shape_tensor())
    return self.transform(base.sample(sample_shape, seed=seed), **_checked(kwargs))


def transform(
  flow: FlowDistribution, base_sample: tf.Tensor, ctx: EvalContext | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
  """Return `flow.transform(base_sample, ctx)`. Nothing is checked."""
  y, log_det = evaluate(flow.bijector, base_sample, False, len(flow.distribution.event_shape), ctx)
  return y, flow.distribution.log_prob(base_sample) - log_det


class _CompositeFlow(FlowDistribution, tfp.distributions.AutoCompositeTensorDistribution):
  """A flow of composite tensors."""


def _all_to_bijector(kwargs):
  return {}, _checked(kwargs)


def _checked(kwargs):
  """Return the keyword arguments of a method; raise a TypeError if one is unknown."""
  unknown = set(kwargs) - {"ctx"}
  if unknown:
    raise TypeError(f"a flow takes no keyword {sorted(unknown)[0]!r}; `flow.given(context)` conditions it")
  return kwargs


@tfd.RegisterKL(FlowDistribution, FlowDistribution)
@tfd.RegisterKL(FlowDistribution, transformed_distribution._TransformedDistribution)
@tfd.RegisterKL(transformed_distribution._TransformedDistribution, FlowDistribution)
def _kl_flow_flow(a, b, name=None):
  """KL(a || b) of flows with equal bijectors, `[*batch_shape]` nats."""
  if a.bijector != b.bijector:
    raise NotImplementedError(
      f"the KL divergence of {a.name!r} and {b.name!r} is not known, as their bijectors, or the contexts of these, "
      "differ, or are different tensors of a graph; estimate it by samples, as "
      "`tfp.vi.monte_carlo_variational_loss` does"
    )
  batch_shape = tf.broadcast_dynamic_shape(a.batch_shape_tensor(), b.batch_shape_tensor())
  return tf.broadcast_to(tfd.kl_divergence(a.distribution, b.distribution, name=name), batch_shape)

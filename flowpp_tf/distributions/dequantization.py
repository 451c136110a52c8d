"""Dequantization: noise u in [0, 1), and its density, that is added to integer images x. Flow++ section 3.1.

    log P(x) >= E_{u ~ q(.|x)} [log p(x + u) - log q(u|x)]                               (equation 7)

Uniform dequantization takes q = 1. Variational dequantization learns q as a conditional flow: normal noise through
couplings that see the image, then a sigmoid.

Both are distributions whose noise can be given, so that the same draws give the same bound: `q.transform(noise)`
returns u and log q(u|x), and `q.distribution` is the distribution of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.conditioned import Conditioned
from flowpp_tf.bijectors.elementwise import Sigmoid
from flowpp_tf.core.checks import as_dtype, as_sample_shape, check_type, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import finfo
from flowpp_tf.distributions.flow_distribution import FlowDistribution
from flowpp_tf.types import Shape, TensorLike

tfd = tfp.distributions


def add_noise(x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
  """Return x + u for pixel values x and noise u in [0, 1), below x + 1 even where the sum rounds to it."""
  # The bound is the number below x + 1, as of `nextafter`, for which `tf.vectorized_map` has no rule.
  return tf.minimum(x + u, (x + 1) * (1 - finfo(x.dtype).epsneg))


class _HalfOpenUniform(tfp.distributions.Uniform):
  """`tfd.Uniform` on [0, 1), without its upper end, where noise would make the next pixel value."""

  def _prob(self, x):
    prob = super()._prob(x)
    return tf.where(tf.equal(x, self.high), tf.zeros([], self.dtype), prob)

  def _default_event_space_bijector(self):
    return Sigmoid()


def uniform_dequantization(batch_shape: TensorLike, event_shape: Shape, dtype: Any = tf.float32) -> FlowDistribution:
  """Return the distribution of u uniform on [0, 1), independent of the images.

  Args:
    batch_shape: of the images.
    event_shape: `(H, W, C)`.
    dtype: floating.

  Returns:
    `FlowDistribution`, whose log density is 0 in [0, 1), and -inf outside of it.

  Examples:
    >>> fpp.distributions.uniform_dequantization([4], (8, 8, 1)).sample(seed=(0, 1)).shape
    TensorShape([4, 8, 8, 1])
  """
  low = tf.zeros(as_sample_shape("batch_shape", batch_shape), as_dtype("dtype", dtype))
  uniform = _HalfOpenUniform(low, tf.ones([], low.dtype))
  noise = tfd.Sample(uniform, as_sample_shape("event_shape", event_shape))
  return FlowDistribution(noise, tfp.bijectors.Identity(), name="uniform_dequantization")


class VariationalDequantization(FlowDistribution):
  r"""u = bijector(noise; context of the images), noise standard normal.

  With it the bound of integer images is E[log p(x + u) - log q(u|x)] (equation 7), epsilon the noise:

  $$
  \log P(x) \ge \mathbb{E}_{u \sim q(\cdot | x)} \left[ \log p(x + u) - \log q(u | x) \right],
  \qquad \log q(u | x) =
  \log \mathcal{N}(\epsilon; 0, I) - \log \left| \det \frac{\partial u}{\partial \epsilon} \right|
  $$

  Args:
    bijector: from noise to u in (0, 1).
    context: of the images, `[N, H, W, C]`; its batch is the batch of this distribution.
    event_shape: `(H, W, C)` of u.
    context_variables: `tf.Variable`s that the context was computed with, which are tracked too.
    dtype: floating.

  The log density of u outside of the image of `bijector` is NaN.

  Examples:
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> q = model.dequantizer.posterior(np.zeros([2, 8, 8, 1]))  # a VariationalDequantization
    >>> u, log_q = q.experimental_sample_and_log_prob()
    >>> u.shape, log_q.shape
    (TensorShape([2, 8, 8, 1]), TensorShape([2]))
  """

  def __init__(
    self,
    bijector: tfp.bijectors.Bijector,
    context: tf.Tensor,
    event_shape: Shape,
    context_variables: Sequence[tf.Variable] = (),
    dtype: Any = tf.float32,
    validate_args: bool = False,
    name: str = "variational_dequantization",
  ) -> None:
    parameters = dict(locals())
    dtype = as_dtype("dtype", dtype)
    check_type("context_variables", context_variables, Sequence)
    for variable in context_variables:
      if not (isinstance(variable, tf.Variable) or tf.is_tensor(variable)):  # tensors in a stateless call
        raise InputError(f"`context_variables` must be variables, got {shown(variable)}")
    self._context_variables = list(context_variables)
    normal = tfd.Normal(tf.zeros([], dtype), tf.ones([], dtype), validate_args)
    noise = tfd.Sample(normal, as_sample_shape("event_shape", event_shape))
    super().__init__(noise, Conditioned(bijector, context, validate_args), validate_args, parameters, name)

  def __getitem__(self, slices: Any) -> VariationalDequantization:
    return self.copy(context=self.bijector[slices].context)

  @property
  def context(self) -> tf.Tensor:
    """The context that u is conditioned on."""
    return self.bijector.context

  @property
  def context_variables(self) -> list[tf.Variable]:
    """The variables that the context was computed with."""
    return self._context_variables

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    event_ndims = lambda self: len(self.event_shape)
    return dict(
      bijector=tfp.util.BatchedComponentProperties(event_ndims=event_ndims),
      context=tfp.util.ParameterProperties(event_ndims=event_ndims),
    )

"""A normalizing flow as a TFP distribution: log p(x) = log p(z) + log|det dz/dx| (change of variables)."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.distributions import transformed_distribution

from flowpp_tf.bijectors.base import forward_and_log_det, inverse_and_log_det
from flowpp_tf.call import Call
from flowpp_tf.types import TensorLike

tfb = tfp.bijectors
tfd = tfp.distributions


# The class of what `tfd.TransformedDistribution(...)` returns for bijectors that hold networks. A subclass of the
# public class would be a composite tensor, in which `tf.Module`s do not find the networks' variables.
class FlowDistribution(transformed_distribution._TransformedDistribution):  # pylint: disable=protected-access
  """`tfd.TransformedDistribution` that evaluates its bijector once for the value and the log-det.

  Args:
    distribution: the base distribution.
    bijector: from samples of the base to samples of this distribution.
    validate_args: Python `bool`.
    name: Python `str`.

  Methods that evaluate the bijector, such as `log_prob(x, call=None)` and `sample(n, call=None)`, take a `Call`. Every
  evaluation sees the current weights, in eager mode on the same tensor too.

  Example:
    >>> normal = tfd.Sample(tfd.Normal(0.0, 1.0), 6)
    >>> flow = FlowDistribution(normal, fb.Invert(coupling))  # the coupling goes from data to latents
    >>> flow.log_prob(tf.zeros([2, 6])).shape
    TensorShape([2])
  """

  def __init__(self, distribution: tfp.distributions.Distribution, bijector: tfp.bijectors.Bijector,
               validate_args: bool = False, parameters: dict[str, Any] | None = None, name: str = "flow") -> None:
    parameters = dict(locals()) if parameters is None else parameters
    super().__init__(distribution, bijector, kwargs_split_fn=_all_to_bijector, validate_args=validate_args,
                     parameters=parameters, name=name)

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return super()._parameter_properties(dtype, num_classes)  # TFP asks a subclass to say so

  def transform(self, base_sample: TensorLike, call: Call | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a sample of this distribution, made from one of the base, and its log density.

    Args:
      base_sample: value of the base distribution, `[..., *event_shape]`.
      call: as in `Bijector.forward_and_log_det`.

    Returns:
      The sample, and its log density in nats, `[...]`.
    """
    base_sample = tf.convert_to_tensor(base_sample, dtype_hint=self.distribution.dtype)
    y, log_det = forward_and_log_det(self.bijector, base_sample, len(self.distribution.event_shape), call)
    return y, self.distribution.log_prob(base_sample) - log_det

  def log_prob_terms(self, y: TensorLike, call: Call | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the two terms of the log density: that of the base at y's latent, and log|det dx/dy|.

    Args:
      y: values, `[..., *event_shape]`.
      call: as in `Bijector.forward_and_log_det`.

    Returns:
      Two tensors, nats; `log_prob` is their sum.
    """
    y = tf.convert_to_tensor(y, dtype_hint=self.dtype)
    x, log_det = inverse_and_log_det(self.bijector, y, len(self.event_shape), call)
    return self.distribution.log_prob(x), log_det

  def _log_prob(self, y, call=None):
    prior, log_det = self.log_prob_terms(y, call)
    return prior + log_det

  def _sample_and_log_prob(self, sample_shape, seed, call=None):
    base = self.distribution
    if base.batch_shape != self.batch_shape:
      base = tfd.BatchBroadcast(base, self.batch_shape_tensor())
    return self.transform(base.sample(sample_shape, seed=seed), call)


def _all_to_bijector(kwargs):
  return {}, kwargs

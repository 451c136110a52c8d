"""A normalizing flow as a TFP distribution: log p(x) = log N(z) + log|det dz/dx| (change of variables)."""

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.distributions import transformed_distribution

from flowpp_tf.bijectors.single_pass import single_pass

tfd = tfp.distributions


# The class that `tfd.TransformedDistribution(...)` itself returns for bijectors that hold networks.
class FlowDistribution(transformed_distribution._TransformedDistribution):  # pylint: disable=protected-access
  """`tfd.TransformedDistribution` that runs each network of its bijector once an evaluation.

  Args:
    distribution: the base distribution.
    bijector: from samples of the base to samples of this distribution.
    bijector_kwargs: `dict` of keyword arguments that every evaluation of the bijector gets, such as
      a context; a call's own `bijector_kwargs` are laid over it, entry by entry.
    validate_args: Python `bool`.
    parameters: `locals()` of a subclass's constructor.
    name: Python `str`.

  Every evaluation sees the present values of the weights, in eager mode on the same tensor too.
  """

  def __init__(self, distribution, bijector, bijector_kwargs=None, validate_args=False,
               parameters=None, name="flow"):
    parameters = dict(locals()) if parameters is None else parameters
    self._bound_kwargs = bijector_kwargs or {}
    super().__init__(distribution, bijector, kwargs_split_fn=self._split_kwargs,
                     validate_args=validate_args, parameters=parameters, name=name)

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return super()._parameter_properties(dtype, num_classes)  # TFP asks a subclass to say so

  def _split_kwargs(self, kwargs):
    bound, given = self._bound_kwargs, kwargs.get("bijector_kwargs", {})
    merged = {name: {**bound.get(name, {}), **given.get(name, {})} for name in {**bound, **given}}
    return kwargs.get("distribution_kwargs", {}), merged

  def transform(self, base_sample, **kwargs):
    """A sample of this distribution from one of the base, and its log density.

    Args:
      base_sample: value of the base distribution, `[..., *event_shape]`.
      **kwargs: `distribution_kwargs` and `bijector_kwargs`, as in `log_prob`.

    Returns:
      The sample and its log density in nats.
    """
    distribution_kwargs, bijector_kwargs = self._split_kwargs(kwargs)
    base_sample = tf.convert_to_tensor(base_sample, dtype_hint=self.distribution.dtype)
    with single_pass(base_sample) as base_sample:
      y = self.bijector.forward(base_sample, **bijector_kwargs)
      fldj = self.bijector.forward_log_det_jacobian(
          base_sample, event_ndims=len(self.distribution.event_shape), **bijector_kwargs)
    return y, self.distribution.log_prob(base_sample, **distribution_kwargs) - fldj

  def log_prob_terms(self, y, **kwargs):
    """The two terms of the log density: that of the base at y's latent, and log|det| of the Jacobian.

    Args:
      y: values, `[..., *event_shape]`.
      **kwargs: as in `log_prob`, which is their sum.

    Returns:
      Two tensors, nats.
    """
    distribution_kwargs, bijector_kwargs = self._split_kwargs(kwargs)
    with single_pass(tf.convert_to_tensor(y, dtype_hint=self.dtype)) as y:
      x = self.bijector.inverse(y, **bijector_kwargs)
      ildj = self.bijector.inverse_log_det_jacobian(
          y, event_ndims=len(self.event_shape), **bijector_kwargs)
    return self.distribution.log_prob(x, **distribution_kwargs), ildj

  def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
    with single_pass():
      return super()._sample_and_log_prob(sample_shape, seed, **kwargs)

  def experimental_local_measure(self, y, backward_compat=False, **kwargs):
    with single_pass(y) as y:
      return super().experimental_local_measure(y, backward_compat=backward_compat, **kwargs)

"""Affine coupling transform: y = x exp(tanh a) + b, Flow++ section 3.2.1, equation 11.

The log scale goes through tanh, so that one coupling scales by a factor between 1/e and e. By itself it is the affine
coupling of the paper's ablation; after `LogitMixtureLogisticCDF` it is equation 11.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector, Parameter, check_broadcast

ParameterProperties = tfp.util.ParameterProperties


class BoundedAffine(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """y = x exp(tanh(scale_logit)) + shift, elementwise.

  Args:
    scale_logit: any real numbers, broadcast against `x`; their tanh is the log scale.
    shift: any real numbers, broadcast against `x`.

  The log-det is tanh(scale_logit) nats per element.

  Examples:
    >>> affine = fpp.bijectors.BoundedAffine(scale_logit=[0.0, 100.0], shift=[1.0, 0.0])
    >>> affine.forward([1.0, 1.0]).numpy().round(3)
    array([2.   , 2.718], dtype=float32)
  """

  def __init__(self, scale_logit: Any, shift: Any, validate_args: bool = False, name: str = "bounded_affine") -> None:
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      dtype = self._set_parameters(scale_logit=scale_logit, shift=shift)
      check_broadcast(scale_logit=self._scale_logit, shift=self._shift)
      super().__init__(
        forward_min_event_ndims=0,
        dtype=dtype,
        is_constant_jacobian=True,
        validate_args=validate_args,
        parameters=parameters,
        name=name,
      )

  scale_logit = Parameter("Argument of tanh, which gives the log scale.")
  shift = Parameter("Number added after scaling.")

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict(scale_logit=ParameterProperties(), shift=ParameterProperties())

  @classmethod
  def _is_increasing(cls):
    return True

  def _forward_and_log_det(self, x, ctx):
    log_scale = tf.tanh(self.scale_logit)
    return x * tf.exp(log_scale) + self.shift, log_scale

  def _inverse_and_log_det(self, y, ctx):
    log_scale = tf.tanh(self.scale_logit)
    return (y - self.shift) * tf.exp(-log_scale), -log_scale

"""Affine coupling transform: y = x exp(tanh a) + b, Flow++ section 3.2.1, equation 11.

The log scale goes through tanh, so that one coupling scales by a factor between 1/e and e. Alone it
is the affine coupling of the paper's ablation; after `LogitMixtureLogisticCDF` it is equation 11.
"""

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import dtype_util
from tensorflow_probability.python.internal import tensor_util

from flowpp_tf.bijectors.single_pass import SinglePassBijector

ParameterProperties = tfp.util.ParameterProperties


class BoundedAffine(SinglePassBijector, tfp.bijectors.AutoCompositeTensorBijector):
  """y = x exp(tanh(scale_logit)) + shift, elementwise.

  Args:
    scale_logit: any real numbers, broadcast against `x`; their tanh is the log scale.
    shift: any real numbers, broadcast against `x`.
    validate_args: Python `bool`.
    name: Python `str`.

  The log-det is tanh(scale_logit) nats an element.
  """

  def __init__(self, scale_logit, shift, validate_args=False, name="bounded_affine"):
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      dtype = dtype_util.common_dtype([scale_logit, shift], dtype_hint=tf.float32)
      self._scale_logit = tensor_util.convert_nonref_to_tensor(
          scale_logit, dtype=dtype, name="scale_logit")
      self._shift = tensor_util.convert_nonref_to_tensor(shift, dtype=dtype, name="shift")
      super().__init__(forward_min_event_ndims=0, dtype=dtype, is_constant_jacobian=True,
                       validate_args=validate_args, parameters=parameters, name=name)

  @property
  def scale_logit(self):
    """What goes into tanh to give the log scale."""
    return self._scale_logit

  @property
  def shift(self):
    """What is added after scaling."""
    return self._shift

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict(scale_logit=ParameterProperties(), shift=ParameterProperties())

  @classmethod
  def _is_increasing(cls):
    return True

  def _forward_and_log_det(self, x):
    log_scale = tf.tanh(self.scale_logit)
    return x * tf.exp(log_scale) + self.shift, log_scale

  def _inverse_and_log_det(self, y):
    log_scale = tf.tanh(self.scale_logit)
    return (y - self.shift) * tf.exp(-log_scale), -log_scale

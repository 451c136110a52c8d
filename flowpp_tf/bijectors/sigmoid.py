"""u = sigmoid(v), the end of the dequantizer, Flow++ section 3.1: noise in (0, 1), never at its ends.

In float32 sigmoid(17) rounds to 1. A pixel x with u = 1 would be taken for x + 1, and the density at u = 1 would be
that of v = infinity.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector
from flowpp_tf.core.tensors import finfo


# `AutoCompositeTensorBijector` would register its type as `tfp.bijectors.Sigmoid`, in place of TFP's own.
@tfp.experimental.auto_composite_tensor(
  omit_kwargs=("parameters",), non_identifying_kwargs=("name",), module_name="flowpp_tf.bijectors"
)
class Sigmoid(Bijector, tfp.experimental.AutoCompositeTensor):
  """y = sigmoid(x) elementwise, kept between the smallest normal number and the last one below 1.

  The log-det is in nats per element; it is that of the sigmoid everywhere. The inverse takes 0 and 1 for the numbers
  next to them; numbers outside of [0, 1] have none, and give NaN.

  Examples:
    >>> (fpp.bijectors.Sigmoid().forward([0.0, 100.0]) < 1).numpy()
    array([ True,  True])
  """

  def __init__(self, validate_args: bool = False, name: str = "sigmoid") -> None:
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      super().__init__(forward_min_event_ndims=0, validate_args=validate_args, parameters=parameters, name=name)

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict()

  @classmethod
  def _is_increasing(cls):
    return True

  def _forward_and_log_det(self, x, ctx):
    return _inside(tf.sigmoid(x)), -tf.nn.softplus(x) - tf.nn.softplus(-x)

  def _inverse_and_log_det(self, y, ctx):
    y = tf.where((y >= 0) & (y <= 1), _inside(y), tf.constant(math.nan, y.dtype))
    log_p, log_q = tf.math.log(y), tf.math.log1p(-y)
    return log_p - log_q, -log_p - log_q


def _inside(y):
  numbers = finfo(y.dtype)
  return tf.clip_by_value(y, numbers.tiny, 1 - numbers.epsneg)

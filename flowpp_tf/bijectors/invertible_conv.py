"""Invertible 1x1 convolution: y[h, w] = x[h, w] W, Glow section 3.2, used by Flow++ section 4.

Flow++ mixes the channels within each half of a split: one matrix a half. On the unsplit tensor that
is a block-diagonal matrix, given here as a stack of its blocks.
"""

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import dtype_util
from tensorflow_probability.python.internal import tensor_util

from flowpp_tf.bijectors.single_pass import SinglePassBijector

ParameterProperties = tfp.util.ParameterProperties


class Invertible1x1Conv(SinglePassBijector):
  """y = x W on the channels of `x [..., H, W, C]`, at every position.

  Args:
    kernel: `[C, C]`, or `[G, C / G, C / G]` for a block-diagonal matrix of G blocks.
    validate_args: Python `bool`.
    name: Python `str`.

  The log-det is H W log|det W| nats; the determinant is taken in float64.

  Raises:
    ValueError: if `kernel` is not a square matrix or a stack of them.
  """

  def __init__(self, kernel, validate_args=False, name="invertible_1x1_conv"):
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      dtype = dtype_util.common_dtype([kernel], dtype_hint=tf.float32)
      self._kernel = tensor_util.convert_nonref_to_tensor(kernel, dtype=dtype, name="kernel")
      shape = self._kernel.shape
      if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
        raise ValueError(f"`kernel` must be [C, C] or [G, C, C], got shape {shape}")
      super().__init__(forward_min_event_ndims=3, dtype=dtype, is_constant_jacobian=True,
                       validate_args=validate_args, parameters=parameters, name=name)

  @property
  def kernel(self):
    """The matrix, or the stack of its diagonal blocks."""
    return self._kernel

  @classmethod
  def _parameter_properties(cls, dtype):
    # The kernel is one event: it has no batch of kernels beside it.
    return dict(kernel=ParameterProperties(
        event_ndims=lambda self, x_event_ndims: len(self.kernel.shape),
        shape_fn=lambda sample_shape: tf.stack([sample_shape[-1], sample_shape[-1]])))

  def _forward_and_log_det(self, x):
    kernel = tf.convert_to_tensor(self.kernel)
    return self._matmul(x, kernel), self._log_det(x, kernel)

  def _inverse_and_log_det(self, y):
    kernel = tf.convert_to_tensor(self.kernel)
    return self._matmul(y, tf.linalg.inv(kernel)), -self._log_det(y, kernel)

  def _matmul(self, x, kernel):
    if len(kernel.shape) == 2:
      return tf.linalg.matmul(x, kernel)
    blocks, size, _ = kernel.shape
    shape = tf.shape(x)
    x = tf.reshape(x, tf.concat([shape[:-1], [blocks, size]], axis=0))
    return tf.reshape(tf.einsum("...gi,gij->...gj", x, kernel), shape)

  def _log_det(self, x, kernel):
    # |det W| is the product of the diagonal of R in W = Q R; unlike slogdet, XLA knows it.
    _, r = tf.linalg.qr(tf.cast(kernel, tf.float64))
    log_det = tf.math.log(tf.abs(tf.linalg.diag_part(r)))
    positions = tf.cast(tf.reduce_prod(tf.shape(x)[-3:-1]), tf.float64)
    return tf.cast(positions * tf.reduce_sum(log_det), x.dtype)

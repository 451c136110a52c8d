"""Invertible 1x1 convolution: y[h, w] = x[h, w] W, Glow section 3.2, used by Flow++ section 4.

    W any matrix:  log|det| = H W log|det W|,         from a QR decomposition
    W = P L U:     log|det| = H W sum_i log U_ii,     whose terms are parameters (Glow equation 10)

Flow++ mixes the channels within each half of a split: one matrix per half. On the unsplit tensor that is a
block-diagonal matrix, given here as a stack of its blocks. Determinants and inverses of these small matrices are taken
in float64. A vector is an image of one position (`event_ndims` 1): there the convolution is a linear map.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import Bijector
from flowpp_tf.bijectors.parameters import Parameter, TensorParameter, as_parameters, check_variables
from flowpp_tf.core.checks import as_tensor, check_count, check_type, shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import whole_batch
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.types import TensorLike

ParameterProperties = tfp.util.ParameterProperties
_LEAST_VARIANCE = 1e-4  # of a principal axis, relative to the largest
_SHRINKAGE = 3.0  # times columns / rows times the mean variance is added: docs/benchmarks/vector_flows.md


class _ChannelMixing(Bijector, tfp.bijectors.AutoCompositeTensorBijector):
  """y = x W; subclasses give W, its inverse and its log-det in float64."""

  def __init__(self, parameters: dict[str, Any], event_ndims: int, dtype: Any) -> None:
    check_count("event_ndims", event_ndims)
    self._event_ndims = event_ndims
    super().__init__(forward_min_event_ndims=event_ndims, dtype=dtype, is_constant_jacobian=True, parameters=parameters)

  event_ndims = Parameter("Rank of an event.")

  def _forward_and_log_det(self, x, ctx):
    return self._mixed(x, *self._kernel_and_log_det())

  def _inverse_and_log_det(self, y, ctx):
    kernel, log_det = self._inverse_kernel_and_log_det()
    return self._mixed(y, kernel, -log_det)

  def _mixed(self, x, kernel, log_det):
    """Return x times the kernel, and the sum of the log-det over all positions."""
    positions = math.prod(shape_of(x)[-self.event_ndims : -1])
    return _matmul(x, kernel), tf.cast(tf.cast(positions, tf.float64) * log_det, x.dtype)


class Invertible1x1Conv(_ChannelMixing):
  """y = x W on the channels of `x [..., H, W, C]`, at every position.

  Args:
    kernel: `[C, C]`, or `[G, C / G, C / G]` for a block-diagonal matrix of G blocks.
    event_ndims: rank of an event: 3 for images, 1 for vectors `x [..., C]`.
    whitening: whether an evaluation with `ctx=EvalContext(initialize=True)` sets `kernel`, see `initialize`.

  The log-det is H W log|det W| nats, and log|det W| nats for a vector.

  Raises:
    ValueError: if `kernel` is not a square matrix or a stack of them.

  Examples:
    >>> conv = fpp.bijectors.Invertible1x1Conv(2 * tf.eye(3))
    >>> y, log_det = conv.forward_and_log_det(tf.ones([8, 8, 3]))
    >>> round(float(log_det), 2)  # 8 * 8 * 3 * log(2)
    133.08
  """

  def __init__(
    self,
    kernel: Any,
    event_ndims: int = 3,
    whitening: bool = False,
    validate_args: bool = False,
    name: str = "invertible_1x1_conv",
  ) -> None:
    parameters = dict(locals())
    check_type("whitening", whitening, bool)
    self._kernel = _as_matrices(kernel=kernel)
    self._whitening = whitening
    super().__init__(parameters, event_ndims, self._kernel.dtype)

  kernel = TensorParameter("The matrix, or the stack of its diagonal blocks.")
  whitening = Parameter("Whether an evaluation that initialises sets the matrix.")

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict(kernel=_one_event(lambda self: self.kernel))

  def initialize(self, x: TensorLike, inverse: bool = False) -> None:
    """Set `kernel` so that the channels of `forward(x)` in each block are uncorrelated, with variance 1.

    They are the principal axes of the block's channels, over all leading dimensions of `x`, by rising variance. An axis
    with less than 1e-4 of the largest variance is scaled as if it had that much. For N vectors `[C]`, 3 C / N of the
    mean variance is added to the variance of each axis, because few rows show correlations that do not exist. The axes
    of vectors are then turned back: columns without correlation are only scaled (ZCA).

    Args:
      x: `[..., H, W, C]`, or `[..., C]` of vectors.
      inverse: whether `inverse(x)` gets these channels instead.

    Raises:
      ValueError: if `kernel` is not a variable, or `x` has other channels, no value or one that is not finite.
    """
    check_type("inverse", inverse, bool)
    self._set_whitening(x, inverse)

  def _fit(self, x, inverse):
    if self.whitening:
      self._set_whitening(x, inverse)

  def _set_whitening(self, x, inverse):
    x = self._initial_batch(x, [math.prod(self.kernel.shape[:-1])])
    check_variables("Invertible1x1Conv", kernel=self.kernel)
    size = self.kernel.shape[-1]
    num_blocks = x.shape[-1] // size
    blocks = tf.reshape(tf.cast(whole_batch(x), tf.float64), [-1, num_blocks, size])
    kernel = _whitening_kernel(blocks, zca=self.event_ndims == 1)
    if inverse:
      kernel = tf.linalg.inv(kernel)
    self.kernel.assign(tf.cast(tf.reshape(kernel, self.kernel.shape), self.dtype))

  def _kernel_and_log_det(self):
    kernel = tf.cast(self.kernel, tf.float64)
    return kernel, _log_abs_det(kernel)

  def _inverse_kernel_and_log_det(self):
    kernel, log_det = self._kernel_and_log_det()
    finite = tf.reduce_all(tf.math.is_finite(kernel))
    *blocks, size, _ = shape_of(kernel)
    identity = tf.eye(size, batch_shape=blocks, dtype=kernel.dtype)
    # `tf.linalg.inv` stops the program at NaN.
    inverse = tf.linalg.inv(tf.where(finite, kernel, identity))
    return tf.where(finite, inverse, tf.constant(np.nan, kernel.dtype)), log_det


def _whitening_kernel(blocks, zca):
  """Return the kernels `[G, C, C]` that whiten the channels of `blocks [N, G, C]`, float64.

  With `zca` the axes are shrunk and turned back, as for vectors: `Invertible1x1Conv.initialize` says how.
  """
  centred = tf.transpose(blocks - tf.reduce_mean(blocks, axis=0), [1, 0, 2])
  count = tf.cast(tf.shape(centred)[1], tf.float64)
  covariance = tf.matmul(centred, centred, transpose_a=True) / count
  variances, axes = tf.linalg.eigh(covariance)
  tiny = tf.constant(np.finfo(np.float32).tiny, tf.float64)
  variances = tf.maximum(variances, tf.maximum(_LEAST_VARIANCE * variances[..., -1:], tiny))
  if zca:
    variances += _SHRINKAGE * tf.reduce_sum(variances, axis=-1, keepdims=True) / count
  scaled_axes = axes * tf.math.rsqrt(variances)[..., tf.newaxis, :]
  return tf.matmul(scaled_axes, axes, transpose_b=True) if zca else scaled_axes


class Invertible1x1ConvLU(_ChannelMixing):
  """y = x W with W = P L U on the channels of `x [..., H, W, C]`; W cannot become singular.

  Args:
    lower_upper: `[C, C]`, or `[G, C / G, C / G]` for a block-diagonal matrix of G blocks: L below the diagonal (the
      diagonal of L is 1), U above the diagonal, and log U_ii on it.
    permutation: integers `[C]` or `[G, C / G]`, row i of W being row `permutation[i]` of L U; None for no permutation.
    event_ndims: rank of an event: 3 for images, 1 for vectors `x [..., C]`.

  The log-det is H W sum_i log U_ii nats.

  Raises:
    ValueError: if `lower_upper` is not a square matrix or a stack of them, or `permutation` is not a permutation.

  Examples:
    >>> lower_upper = [[np.log(2.0), 0.0], [0.5, 0.0]]
    >>> linear = fpp.bijectors.Invertible1x1ConvLU(lower_upper, permutation=[1, 0], event_ndims=1)
    >>> linear.forward([1.0, 3.0]).numpy()
    array([7., 1.], dtype=float32)
  """

  def __init__(
    self,
    lower_upper: Any,
    permutation: TensorLike | None = None,
    event_ndims: int = 3,
    validate_args: bool = False,
    name: str = "invertible_1x1_conv_lu",
  ) -> None:
    parameters = dict(locals())
    self._lower_upper = _as_matrices(lower_upper=lower_upper)
    self._permutation = None
    if permutation is not None:
      self._permutation = _as_permutation(permutation, self._lower_upper.shape[:-1])
    super().__init__(parameters, event_ndims, self._lower_upper.dtype)

  lower_upper = TensorParameter("L below the diagonal, U above it, log U_ii on it.")
  permutation = Parameter("Index of the row of L U that each row of W is, or None for the same.")

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict(
      lower_upper=_one_event(lambda self: self.lower_upper),
      # TFP makes trainable real numbers of preferred parameters.
      permutation=_one_event(lambda self: self.permutation, event_ndims=1, is_preferred=False),
    )

  def _triangles(self):
    lower_upper = tf.cast(self.lower_upper, tf.float64)
    log_diagonal = tf.linalg.diag_part(lower_upper)
    lower = tf.linalg.set_diag(tf.linalg.band_part(lower_upper, -1, 0), tf.ones_like(log_diagonal))
    upper = tf.linalg.set_diag(tf.linalg.band_part(lower_upper, 0, -1), tf.exp(log_diagonal))
    return lower, upper, tf.reduce_sum(log_diagonal)

  def _permute_rows(self, matrix, permutation):
    return tf.gather(matrix, permutation, axis=-2, batch_dims=len(matrix.shape) - 2)

  def _kernel_and_log_det(self):
    lower, upper, log_det = self._triangles()
    kernel = tf.matmul(lower, upper)
    if self.permutation is not None:
      kernel = self._permute_rows(kernel, self.permutation)
    return kernel, log_det

  def _inverse_kernel_and_log_det(self):
    lower, upper, log_det = self._triangles()
    *blocks, size, _ = shape_of(lower)
    identity = tf.eye(size, batch_shape=blocks, dtype=lower.dtype)
    if self.permutation is not None:
      identity = self._permute_rows(identity, tf.argsort(self.permutation))
    solve = tf.linalg.triangular_solve
    return solve(upper, solve(lower, identity, lower=True), lower=False), log_det


@tf.custom_gradient
def _log_abs_det(kernel):
  """Return the sum of log|det| over the blocks; its derivative is the transposed inverse."""

  def grad(upstream):
    return upstream * tf.linalg.inv(kernel, adjoint=True)

  # The product of R's diagonal in W = Q R is |det W|; XLA knows QR, but not slogdet.
  diagonal = tf.linalg.diag_part(tf.linalg.qr(kernel).r)
  return tf.reduce_sum(tf.math.log(tf.abs(diagonal))), grad


def _one_event(parameter, event_ndims=2, is_preferred=True):
  """Return the properties of a kernel, all of whose dimensions are one event: it has no batch."""

  def rank(bijector, x_event_ndims):
    del x_event_ndims
    value = parameter(bijector)
    return 0 if value is None else len(value.shape)

  return ParameterProperties(
    event_ndims=rank, shape_fn=lambda sample_shape: tf.repeat(sample_shape[-1:], event_ndims), is_preferred=is_preferred
  )


def _as_matrices(**parameter):
  """Return a parameter that is a square matrix, or a stack of them; raise an `InputError` for others."""
  [name] = parameter
  [matrices] = as_parameters(**parameter)
  shape = matrices.shape
  if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
    raise InputError(f"`{name}` must be [C, C] or [G, C, C], got shape {shape}")
  return matrices


def _as_permutation(value, shape):
  """Return a permutation as integers of a shape; raise an `InputError` for other values, unless a graph hides them."""
  permutation = as_tensor("permutation", value)
  if not permutation.dtype.is_integer or not permutation.shape.is_compatible_with(shape):
    raise InputError(f"`permutation` must be integers of shape {[*shape]}, got {shown(value)}")
  if hasattr(permutation, "numpy"):
    size = permutation.shape[-1]
    if not np.all(np.sort(permutation.numpy()) == np.arange(size)):
      raise InputError(f"`permutation` must be each of 0 .. {size - 1} once, got {shown(value)}")
  return permutation


def _matmul(x, kernel):
  """Return x W at every position."""
  kernel = tf.cast(kernel, x.dtype)
  shape = shape_of(x)
  channels = shape[-1]
  if len(kernel.shape) == 3:  # one product with the dense matrix takes less time than a small one for each block
    is_same_block = tf.eye(shape_of(kernel)[0], dtype=kernel.dtype)
    blocks = kernel[:, :, tf.newaxis, :] * is_same_block[:, tf.newaxis, :, tf.newaxis]
    kernel = tf.reshape(blocks, [channels, channels])
  y = tf.linalg.matmul(tf.reshape(x, [-1, channels]), kernel)
  return tf.reshape(y, shape)

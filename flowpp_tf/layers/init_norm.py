"""Convolution and dense layers with data-dependent initialisation (Salimans and Kingma 2016).

Called with `initialize=True`, a layer changes its weights so that each output channel has mean 0 and standard deviation
`init_scale` over the batch and all positions. With weight normalisation the kernel stays W = gain V / |V|. Flow++ uses
the layers without weight normalisation for CIFAR-10, and with it for ImageNet 32.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.config.model import PADDINGS
from flowpp_tf.core.checks import check_arguments, check_count, check_number, check_tensor, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import moments
from flowpp_tf.core.remat import rematerialized
from flowpp_tf.core.tensors import at_least_float32
from flowpp_tf.layers.kernels.products import conv2d, dense, periodic_conv2d

_EPSILON = 1e-8
_SMALLEST_SQUARED_NORM = 1e-12


class _InitNormLayer(keras.layers.Layer):
  """Base class of the convolution and the dense layer: weights, normalisation, initialisation."""

  _sizes: tuple[Any, ...] = (...,)  # sizes of the input before the channels

  def __init__(self, product, units, init_scale, weight_norm, **kwargs):
    super().__init__(**kwargs)
    check_number("init_scale", init_scale, 0, ends=False)
    self.product = product  # `product(x, kernel, bias=None)`
    self.units = units
    self.init_scale = init_scale
    self.weight_norm = weight_norm

  def _add_weights(self, kernel_shape):
    self.kernel = self.add_weight(
      name="kernel", shape=kernel_shape, initializer=keras.initializers.RandomNormal(stddev=0.05)
    )
    if self.weight_norm:
      self.gain = self.add_weight(name="gain", shape=(self.units,), initializer="ones")
    self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

  def call(self, x: Float[tf.Tensor, "*n c"], initialize: bool = False) -> Float[tf.Tensor, "*n units"]:
    check_type("initialize", initialize, bool)
    kernel, bias = self.effective_weights()
    check_tensor("x", x, [*self._sizes, kernel.shape[-2]])
    if initialize:
      return self._initialize(x)
    return self.product(x, kernel, bias)

  def after(
    self, function: Callable[..., tf.Tensor], *arguments: Any, input_scale: float = 1.0, initialize: bool = False
  ) -> Float[tf.Tensor, "*n units"]:
    """Return the layer's output for `input_scale function(*arguments)`; its gradient recomputes the function.

    Args:
      function: of tensors or None, cheap, and applied at each position separately.
      *arguments: arguments of the function.
      input_scale: factor of the function's values. It scales the kernel, which is smaller.
      initialize: as in `call`.
    """
    if initialize:
      return self._initialize(function(*arguments) * input_scale)
    kernel, bias = self.effective_weights()
    if input_scale != 1:
      kernel = tf.cast(at_least_float32(kernel) * input_scale, kernel.dtype)

    def product(*tensors):
      *inputs, kernel, bias = tensors
      return self.product(function(*inputs), kernel, bias)

    return rematerialized(product)(*arguments, kernel, bias)

  def effective_weights(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the kernel that the input is multiplied by, and the bias."""
    kernel, bias = map(tf.convert_to_tensor, (self.kernel, self.bias))
    if self.weight_norm:
      v = at_least_float32(kernel)
      gain = at_least_float32(tf.convert_to_tensor(self.gain))
      axes = list(range(len(v.shape) - 1))
      squared_norm = tf.reduce_sum(tf.square(v), axis=axes)
      norm = tf.sqrt(tf.maximum(squared_norm, _SMALLEST_SQUARED_NORM))
      kernel = tf.cast(v * (gain / norm), kernel.dtype)
    return kernel, bias

  def _initialize(self, x):
    """Set the weights so that the output for `x` is normalised; return this output."""
    kernel, bias = self.effective_weights()
    rescaled = self.gain if self.weight_norm else self.kernel
    weights = tf.convert_to_tensor(rescaled)
    y = self.product(x, kernel)
    mean, variance = moments(at_least_float32(y), len(y.shape) - 1)
    scale = self.init_scale * tf.cast(tf.math.rsqrt(variance + _EPSILON), bias.dtype)
    if not self.weight_norm:
      bias = tf.zeros_like(bias)
    bias -= (tf.cast(mean, bias.dtype) + bias) * scale  # the published form includes the earlier bias in the mean
    rescaled.assign(weights * scale)
    self.bias.assign(bias)
    return y * tf.cast(scale, y.dtype) + tf.cast(bias, y.dtype)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "init_scale": self.init_scale, "weight_norm": self.weight_norm}


@keras.saving.register_keras_serializable("flowpp_tf")
class InitNormConv2D(_InitNormLayer):
  """2D convolution, stride 1, with data-dependent initialisation; the output has the size of the input.

  Args:
    filters: output channels.
    kernel_size: side of the square kernel.
    init_scale: standard deviation of each output channel after initialisation.
    weight_norm: if true the kernel is `gain V / |V|`, with the norm over all axes except the output's.
    padding: "zeros", or "periodic" for images on a torus.

  Input `[N, H, W, C]`, output `[N, H, W, filters]`.

  Examples:
    >>> y = fpp.layers.InitNormConv2D(16)(tf.random.normal([64, 8, 8, 3]), initialize=True)
    >>> round(float(tf.math.reduce_std(y)), 2)
    1.0
  """

  _sizes = (..., None, None, None)

  @check_arguments
  def __init__(
    self,
    filters: int,
    kernel_size: int = 3,
    init_scale: float = 1.0,
    weight_norm: bool = False,
    padding: str = "zeros",
    **kwargs: Any,
  ) -> None:
    check_count("filters", filters)
    check_count("kernel_size", kernel_size)
    if padding not in PADDINGS:
      raise InputError(f"`padding` must be one of {', '.join(PADDINGS)}, got {padding!r}")
    product = periodic_conv2d if padding == "periodic" else conv2d
    super().__init__(product, filters, init_scale, weight_norm, **kwargs)
    self.kernel_size = kernel_size
    self.padding = padding

  def build(self, input_shape: tuple) -> None:
    self._add_weights((self.kernel_size, self.kernel_size, input_shape[-1], self.units))

  def get_config(self) -> dict[str, Any]:
    config = {"filters": self.units, "kernel_size": self.kernel_size, "padding": self.padding}
    return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("flowpp_tf")
class InitNormDense(_InitNormLayer):
  """Dense layer on the last axis, a 1x1 convolution on images, with data-dependent initialisation.

  Input `[..., C]`, output `[..., units]`; arguments as in `InitNormConv2D`.

  Examples:
    >>> y = fpp.layers.InitNormDense(16)(tf.random.normal([64, 2]), initialize=True)
    >>> round(float(tf.math.reduce_std(y)), 2)
    1.0
  """

  @check_arguments
  def __init__(self, units: int, init_scale: float = 1.0, weight_norm: bool = False, **kwargs: Any) -> None:
    check_count("units", units)
    super().__init__(dense, units, init_scale, weight_norm, **kwargs)

  def build(self, input_shape: tuple) -> None:
    self._add_weights((input_shape[-1], self.units))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "units": self.units}

"""Convolution and dense layers with data-dependent initialisation (Salimans and Kingma 2016).

Called with `initialize=True`, a layer rescales its output to mean 0 and standard deviation
`init_scale` in each channel, over the batch and all positions, by changing its weights. Without
weight normalisation that is all that is left of it; with it the kernel stays W = gain V / |V|.
Flow++ uses the first form for CIFAR-10 and the second for ImageNet 32.
"""

import keras
import tensorflow as tf

from flowpp_tf.layers.remat import rematerialized

_EPSILON = 1e-8
_SMALLEST_SQUARED_NORM = 1e-12


def wide(x):
  """`x` in at least float32: narrower numbers are for products, elsewhere they are slower on CPUs, too."""
  return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


class _InitNormLayer(keras.layers.Layer):
  """What the convolution and the dense layer share: weights, normalisation, initialisation."""

  def __init__(self, units, init_scale, weight_norm, **kwargs):
    super().__init__(**kwargs)
    if units < 1:
      raise ValueError(f"the number of output channels must be at least 1, got {units}")
    self.units = units
    self.init_scale = init_scale
    self.weight_norm = weight_norm

  def _add_weights(self, kernel_shape):
    self.kernel = self.add_weight(name="kernel", shape=kernel_shape,
                                  initializer=keras.initializers.RandomNormal(stddev=0.05))
    if self.weight_norm:
      self.gain = self.add_weight(name="gain", shape=(self.units,), initializer="ones")
    self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

  def call(self, inputs, *more, before=None, initialize=False):
    """The layer of `inputs`, or of `before(inputs, *more)`.

    `before` is something cheap of each position, which the gradient evaluates again; `more` are tensors or
    None.
    """
    kernel, bias = self._effective_kernel(), tf.convert_to_tensor(self.bias)
    if initialize:
      outputs = self._initialize(self._linear(before(inputs, *more) if before else inputs, kernel))
      return outputs + tf.cast(self.bias, outputs.dtype)
    if before is None:
      return self._linear(inputs, kernel, bias)

    def product(*arguments):
      *arguments, kernel, bias = arguments
      return self._linear(before(*arguments), kernel, bias)

    return rematerialized(product)(inputs, *more, kernel, bias)

  def _effective_kernel(self):
    kernel = tf.convert_to_tensor(self.kernel)
    if not self.weight_norm:
      return kernel
    v, gain = wide(kernel), wide(tf.convert_to_tensor(self.gain))
    squared_norm = tf.reduce_sum(tf.square(v), axis=list(range(len(v.shape) - 1)))
    norm = tf.sqrt(tf.maximum(squared_norm, _SMALLEST_SQUARED_NORM))
    return tf.cast(v * (gain / norm), kernel.dtype)

  def _initialize(self, outputs):
    """Sets the weights; returns the layer's new outputs, still without the bias."""
    mean, variance = tf.nn.moments(wide(outputs), axes=list(range(len(outputs.shape) - 1)))
    scale = self.init_scale * tf.math.rsqrt(variance + _EPSILON)
    scale, mean = tf.cast(scale, self.bias.dtype), tf.cast(mean, self.bias.dtype)
    if self.weight_norm:  # the published form, which takes an earlier bias into its moments
      self.gain.assign(self.gain * scale)
      self.bias.assign(self.bias - (mean + self.bias) * scale)
    else:
      self.kernel.assign(self.kernel * scale)
      self.bias.assign(-mean * scale)
    return outputs * tf.cast(scale, outputs.dtype)

  def get_config(self):
    return {**super().get_config(), "init_scale": self.init_scale, "weight_norm": self.weight_norm}


class InitNormConv2D(_InitNormLayer):
  """2D convolution, stride 1, same padding, with data-dependent initialisation.

  Args:
    filters: output channels.
    kernel_size: side of the square kernel.
    init_scale: standard deviation of each output channel after initialisation.
    weight_norm: if true the kernel is `gain V / |V|`, the norm over all axes but the output's.

  Input `[N, H, W, C]`, output `[N, H, W, filters]`.
  """

  def __init__(self, filters, kernel_size=3, init_scale=1.0, weight_norm=False, **kwargs):
    super().__init__(filters, init_scale, weight_norm, **kwargs)
    self.kernel_size = kernel_size

  def build(self, input_shape):
    self._add_weights((self.kernel_size, self.kernel_size, input_shape[-1], self.units))
    self.built = True

  def _linear(self, inputs, kernel, bias=None):
    return _add(tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME"), bias)

  def get_config(self):
    return {**super().get_config(), "filters": self.units, "kernel_size": self.kernel_size}


class InitNormDense(_InitNormLayer):
  """Dense layer on the last axis, a 1x1 convolution on images, with data-dependent initialisation.

  Args:
    units: output channels.
    init_scale: standard deviation of each output channel after initialisation.
    weight_norm: if true the kernel is `gain V / |V|`, the norm over all axes but the output's.

  Input `[..., C]`, output `[..., units]`.
  """

  def __init__(self, units, init_scale=1.0, weight_norm=False, **kwargs):
    super().__init__(units, init_scale, weight_norm, **kwargs)

  def build(self, input_shape):
    self._add_weights((input_shape[-1], self.units))
    self.built = True

  def _linear(self, inputs, kernel, bias=None):
    flat = _add(tf.matmul(tf.reshape(inputs, [-1, inputs.shape[-1]]), kernel), bias)
    return tf.reshape(flat, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))

  def get_config(self):
    return {**super().get_config(), "units": self.units}


def _add(outputs, bias):
  """With the bias, by the kernel of the product itself where that can be."""
  return outputs if bias is None else tf.nn.bias_add(outputs, bias)

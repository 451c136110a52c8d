"""Flow++ (Ho et al. 2019) in one file of plain TensorFlow, to be read from top to bottom.

    python docs/flow_in_one_file.py

trains the model of configs/digits.flags and prints four new digits, in 12 minutes of CPU time; an argument is another
number of steps. Its test images take 1.765 bits/dim, 1.762 to 1.769 there (64 samples, one run). `flowpp_tf` computes
the same, and a test compares the two; the package adds speed, precision in the tails, devices, checks and file formats.

A bijector has `forward(x, context, mode) -> (y, log|det dy/dx|)`, log-dets in nats per image, `[N]`, and
`inverse(y, context) -> x`. Images: `[N, H, W, C]`. `mode` is "evaluate", "train" (dropout) or "initialize" (by data).
"""

import math
import sys

import numpy as np
from sklearn import datasets
import tensorflow as tf

DTYPE = tf.float32
variable = lambda value: tf.Variable(tf.cast(value, DTYPE))
sum_over_image = lambda x: tf.reduce_sum(x, axis=[1, 2, 3])
gate = lambda a, b: a * tf.sigmoid(b)
concat_elu = lambda x: tf.nn.elu(tf.concat([x, -x], axis=-1))
# [H, W, C] -> [H, W / 2, 2 C], even columns first: the halves of each row become halves of the channels; and back.
split_columns = lambda x: tf.reshape(x, [-1, x.shape[1], x.shape[2] // 2, 2 * x.shape[3]])
merge_columns = lambda x: tf.reshape(x, [-1, x.shape[1], 2 * x.shape[2], x.shape[3] // 2])


# --- Networks (section 3.2.2) ---------------------------------------------------------------------
class Conv(tf.Module):
  """Convolution; initialisation gives its outputs mean 0 and standard deviation `init_scale`."""

  def __init__(self, inputs, outputs, size=3, init_scale=1.0):
    self.kernel = variable(tf.random.normal([size, size, inputs, outputs], stddev=0.05))
    self.bias, self.init_scale = variable(tf.zeros([outputs])), init_scale

  def __call__(self, x, mode):
    if mode == "initialize":
      mean, variance = tf.nn.moments(tf.nn.conv2d(x, self.kernel, 1, "SAME"), axes=[0, 1, 2])
      scale = self.init_scale * tf.math.rsqrt(variance + 1e-8)
      self.kernel.assign(self.kernel * scale)
      self.bias.assign(-mean * scale)
    return tf.nn.conv2d(x, self.kernel, 1, "SAME") + self.bias


class LayerNorm(tf.Module):
  def __init__(self, filters):
    self.gamma, self.beta = variable(tf.ones([filters])), variable(tf.zeros([filters]))

  def __call__(self, x):
    return tf.nn.batch_normalization(x, *tf.nn.moments(x, [-1], keepdims=True), self.beta, self.gamma, 1e-5)


class GatedConv(tf.Module):
  """x + gate(1x1(dropout(concat_elu(3x3(concat_elu(x)) + 1x1(concat_elu(context))))))"""

  def __init__(self, filters, context_channels, dropout, output_size=1):
    self.conv, self.dropout = Conv(2 * filters, filters), dropout
    self.context_projection = Conv(2 * context_channels, filters, 1) if context_channels else None
    self.output_projection = Conv(2 * filters, 2 * filters, output_size, init_scale=0.1)

  def __call__(self, x, context, mode):
    h = self.conv(concat_elu(x), mode)
    if context is not None:
      h += self.context_projection(concat_elu(context), mode)
    h = tf.nn.dropout(concat_elu(h), self.dropout if mode == "train" else 0)
    return x + gate(*tf.split(self.output_projection(h, mode), 2, axis=-1))


class GatedAttention(tf.Module):
  """x + gate(1x1(dropout(attention(1x1(x + position_embedding)))))"""

  def __init__(self, filters, heads, dropout):
    self.input_projection = Conv(filters, 3 * filters, 1)
    self.output_projection = Conv(filters, 2 * filters, 1, init_scale=0.1)
    self.heads, self.dropout = heads, dropout

  def __call__(self, x, position_embedding, mode):
    _, height, width, filters = x.shape
    qkv = self.input_projection(x + position_embedding, mode)
    qkv = tf.reshape(qkv, [-1, height * width, 3, self.heads, filters // self.heads])
    q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))  # each [N, heads, positions, depth]
    h = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / math.sqrt(filters // self.heads)) @ v
    h = tf.reshape(tf.transpose(h, [0, 2, 1, 3]), [-1, height, width, filters])
    h = tf.nn.dropout(h, self.dropout if mode == "train" else 0)
    return x + gate(*tf.split(self.output_projection(h, mode), 2, axis=-1))


class Conditioner(tf.Module):
  """The network of a coupling: from one half of the channels to the parameters of the other's transformation."""

  def __init__(self, shape, outputs, filters, blocks, heads, dropout, context_channels):
    self.position_embedding = variable(tf.random.normal([*shape[:2], filters], stddev=0.01))
    self.input_conv = Conv(shape[2], filters)
    norm, attention = lambda: LayerNorm(filters), lambda: GatedAttention(filters, heads, dropout)
    self.blocks = [(GatedConv(filters, context_channels, dropout), norm(), attention(), norm()) for _ in range(blocks)]
    self.output_conv = Conv(filters, outputs, init_scale=0.1)

  def __call__(self, x, context, mode):
    h = self.input_conv(x, mode)
    for conv, conv_norm, attention, attention_norm in self.blocks:
      h = conv_norm(conv(h, context, mode))
      h = attention_norm(attention(h, self.position_embedding, mode))
    return self.output_conv(h, mode)


# --- Bijectors (sections 3.2.1 and 4) -------------------------------------------------------------
class ActNorm(tf.Module):
  """y = scale x + bias; initialisation gives y mean 0 and variance 1."""

  def __init__(self, shape):
    self.scale, self.bias = variable(tf.ones(shape)), variable(tf.zeros(shape))

  def forward(self, x, context, mode):
    if mode == "initialize":
      mean, variance = tf.nn.moments(x, axes=[0])
      self.scale.assign(tf.math.rsqrt(tf.maximum(variance, 0.01) + 1e-8))
      self.bias.assign(-mean * self.scale)
    return x * self.scale + self.bias, tf.reduce_sum(tf.math.log(self.scale))

  def inverse(self, y, context):
    return (y - self.bias) / self.scale


class InvertibleConv(tf.Module):
  """y = x W at every position, W a matrix for each half of the channels."""

  def __init__(self, half):
    self.kernel = variable(tf.eye(half) + tf.random.normal([2, half, half], stddev=0.001))

  def mix(self, x, kernels):
    return tf.concat([part @ kernel for part, kernel in zip(tf.split(x, 2, axis=-1), tf.unstack(kernels))], axis=-1)

  def forward(self, x, context, mode):
    log_dets = tf.linalg.slogdet(self.kernel).log_abs_determinant
    return self.mix(x, self.kernel), x.shape[1] * x.shape[2] * tf.reduce_sum(log_dets)

  def inverse(self, y, context):
    return self.mix(y, tf.linalg.inv(self.kernel))


class Coupling(tf.Module):
  """y1 = x1,  y2 = logit(F(x2; pi, mu, s)) exp(tanh(a)) + b  with  pi, mu, s, a, b = conditioner(x1)   (equation 11)

  F(x) = sum_i pi_i sigmoid((x - mu_i) / s_i)   (equation 10). The halves then change places.
  """

  def __init__(self, shape, components, **network):
    self.components, half = components, shape[2] // 2
    self.conditioner = Conditioner((*shape[:2], half), half * (2 + 3 * components), **network)

  def parameters(self, x1, context, mode):
    parameters = tf.reshape(self.conditioner(x1, context, mode), [-1, *x1.shape[1:], 2 + 3 * self.components])
    a, b, *mixture = tf.split(parameters, [1, 1, *[self.components] * 3], axis=-1)
    return a[..., 0], b[..., 0], (tf.nn.log_softmax(mixture[0]), mixture[1], tf.maximum(mixture[2], -7))

  def forward(self, x, context, mode):
    x1, x2 = tf.split(x, 2, axis=-1)
    a, b, mixture = self.parameters(x1, context, mode)
    logit, log_derivative = mixture_logit_cdf(x2, *mixture)
    y2 = logit * tf.exp(tf.tanh(a)) + b
    return tf.concat([y2, x1], axis=-1), sum_over_image(log_derivative + tf.tanh(a))

  def inverse(self, y, context):
    y2, x1 = tf.split(y, 2, axis=-1)
    a, b, mixture = self.parameters(x1, context, "evaluate")
    return tf.concat([x1, mixture_quantile((y2 - b) * tf.exp(-tf.tanh(a)), *mixture)], axis=-1)


def mixture_logit_cdf(x, log_pi, mu, log_s):
  """logit(F(x)), and the log of its derivative F' / (F (1 - F)); all in logarithms, as F is often nearly 0 or 1."""
  z = (x[..., tf.newaxis] - mu) * tf.exp(-log_s)
  below, above = tf.math.log_sigmoid(z), tf.math.log_sigmoid(-z)
  mean = lambda log_terms: tf.reduce_logsumexp(log_pi + log_terms, axis=-1)
  log_cdf, log_survival, log_density = mean(below), mean(above), mean(below + above - log_s)
  return log_cdf - log_survival, log_density - log_cdf - log_survival


def mixture_quantile(y, log_pi, mu, log_s):
  """The x with logit(F(x)) = y, by bisection between the quantiles of the components."""
  quantiles = mu + tf.exp(log_s) * y[..., tf.newaxis]
  low, high = tf.reduce_min(quantiles, axis=-1), tf.reduce_max(quantiles, axis=-1)
  for _ in range(64):
    middle = (low + high) / 2
    is_below = mixture_logit_cdf(middle, log_pi, mu, log_s)[0] < y
    low, high = tf.where(is_below, middle, low), tf.where(is_below, high, middle)
  return low


class Flow(tf.Module):
  """Bijectors in the order of a structure such as `columns:4,squeeze,channels:2,columns:3`."""

  def __init__(self, structure, shape, components, **network):
    self.stages = []
    for kind, _, couplings in (stage.partition(":") for stage in structure.split(",")):
      height, width, channels = shape
      split = (height, width // 2, 2 * channels) if kind == "columns" else shape
      bijectors = []
      for _ in range(int(couplings or 0)):
        bijectors += [ActNorm(split), InvertibleConv(split[2] // 2), Coupling(split, components, **network)]
      self.stages.append((kind, bijectors))
      shape = (height // 2, width // 2, 4 * channels) if kind == "squeeze" else shape
    self.latent_shape = shape

  def forward(self, x, context, mode):
    log_det = tf.zeros([], DTYPE)
    for kind, bijectors in self.stages:
      x = split_columns(x) if kind == "columns" else tf.nn.space_to_depth(x, 2) if kind == "squeeze" else x
      for bijector in bijectors:
        x, term = bijector.forward(x, context, mode)
        log_det += term
      x = merge_columns(x) if kind == "columns" else x
    return x, log_det

  def inverse(self, y, context):
    for kind, bijectors in reversed(self.stages):
      y = split_columns(y) if kind == "columns" else tf.nn.depth_to_space(y, 2) if kind == "squeeze" else y
      for bijector in reversed(bijectors):
        y = bijector.inverse(y, context)
      y = merge_columns(y) if kind == "columns" else y
    return y


# --- The model (section 3.1) ----------------------------------------------------------------------
class FlowPlusPlus(tf.Module):
  """The model of images, integers in 0 .. levels - 1; the defaults are those of the paper for CIFAR-10."""

  NETWORK = dict(filters=96, components=32, heads=4, dropout=0.2)
  FLOW = dict(structure="columns:4,squeeze,channels:2,columns:3", blocks=10, **NETWORK)
  DEQUANTIZER = dict(structure="columns:4", blocks=2, **NETWORK)

  def __init__(self, image_shape=(32, 32, 3), levels=256, flow=FLOW, dequantizer=DEQUANTIZER, context=(32, 3)):
    self.image_shape, self.levels, (channels, blocks) = image_shape, levels, context
    self.context_conv = Conv(2 * image_shape[2], channels)
    self.context_blocks = [GatedConv(channels, 0, dequantizer["dropout"], 3) for _ in range(blocks)]
    self.dequantizer = Flow(shape=image_shape, context_channels=channels, **dequantizer)
    self.flow = Flow(shape=image_shape, context_channels=0, **flow)

  def log_prob_bound(self, images, noise=None, mode="evaluate"):
    """log p(x + u) - log q(u|x), whose mean over u ~ q(u|x) is at most log P(x)   (equation 7), `[N]` nats."""
    x = tf.cast(images, DTYPE)
    noise = tf.random.normal(x.shape, dtype=DTYPE) if noise is None else noise
    context = self.context_conv(split_columns(x / self.levels - 0.5), mode)
    for block in self.context_blocks:
      context = block(context, None, mode)
    v, log_det_u = self.dequantizer.forward(noise, context, mode)  # u = sigmoid(v)
    log_det_u += sum_over_image(tf.math.log_sigmoid(v) + tf.math.log_sigmoid(-v))
    p = 0.05 + 0.9 * (x + tf.sigmoid(v)) / self.levels  # the flow transforms the logit of p
    log_p, log_q = tf.math.log(p), tf.math.log1p(-p)
    z, log_det = self.flow.forward(log_p - log_q, None, mode)
    log_det += sum_over_image(math.log(0.9 / self.levels) - log_p - log_q)
    return log_det + log_det_u + (sum_over_image(tf.square(noise)) - sum_over_image(tf.square(z))) / 2  # both normal

  def bits_per_dim(self, images, mode="evaluate", samples=1):  # of the importance-weighted bound, with so many u
    bounds = [self.log_prob_bound(images, mode=mode) for _ in range(samples)]
    return (math.log(samples) - tf.reduce_logsumexp(bounds, axis=0)) / (math.prod(self.image_shape) * math.log(2))

  def decode(self, z):  # the images of latents; those of standard normal latents are samples
    x = (tf.sigmoid(self.flow.inverse(z, None)) - 0.05) / 0.9 * self.levels
    return tf.clip_by_value(tf.cast(tf.floor(x), tf.int32), 0, self.levels - 1)


# --- Training (section 4) -------------------------------------------------------------------------
def train(model, images, steps, batch_size=64, learning_rate=6e-3, warmup=100, ema_decay=0.995):
  """Adam with warm-up and gradients clipped at norm 1; the model ends with moving averages (EMA) of its weights."""
  model.log_prob_bound(images[:512], mode="initialize")
  optimizer, ema = tf.keras.optimizers.Adam(global_clipnorm=1.0), tf.train.ExponentialMovingAverage(ema_decay)
  weights = model.trainable_variables
  ema.apply(weights)

  @tf.function
  def step(batch):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(model.bits_per_dim(batch, "train"))
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
    ema.apply(weights)
    return loss

  batches = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).repeat().batch(batch_size)
  for i, batch in enumerate(batches.take(steps), start=1):
    optimizer.learning_rate.assign(learning_rate * min(1, i / warmup))
    loss = step(batch)
    if i % 100 == 0 or i == steps:
      print(f"step {i}: {loss:.3f} bits/dim", flush=True)
  for w in weights:
    w.assign(ema.average(w))


if __name__ == "__main__":
  tf.random.set_seed(0)
  digits = datasets.load_digits().images[..., tf.newaxis].astype(int)  # 1,797 of 8x8 pixels, 0 .. 16
  test, _, training = np.split(digits[np.random.RandomState(0).permutation(1797)], [180, 270])  # as `--dataset=digits`
  network = dict(blocks=1, components=8, heads=4, dropout=0.4)
  flow = dict(structure="columns:4,squeeze,channels:2,columns:3", filters=48, **network)
  model = FlowPlusPlus((8, 8, 1), 17, flow, dict(structure="columns:4", filters=32, **network), context=(16, 1))
  train(model, training, steps=int((sys.argv[1:] or [1700])[0]))
  print(f"new digits: {tf.reduce_mean(model.bits_per_dim(test, samples=64)):.3f} bits/dim")
  for row in tf.concat(tf.unstack(model.decode(tf.random.normal([4, *model.flow.latent_shape]))[..., 0]), 1).numpy():
    print("".join(" .:-=+*#%@"[value * 9 // 16] * 2 for value in row))

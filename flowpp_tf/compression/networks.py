"""The conditioners and the context net in fixed point, which gives the same bits on every machine. Flow++ 3.2.2.

Matrix products take most of the time, and their sums run in an order that depends on processor and library. Here both
factors are integers, held in float64: as long as all partial sums are below 2^53, every one of them is exact, and the
order does not matter. So each product rounds its input to multiples of 2^-16; its weights are rounded when they are
loaded. What stands between the products is made of `exact`'s functions, and of sums of integers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowpp_tf.compression import exact
from flowpp_tf.compression.description import CodecModel
from flowpp_tf.compression.threads import in_threads
from flowpp_tf.core.errors import InputError

_FRACTION = 16  # binary digits of an activation behind the point
_LARGEST = 2.0**11  # of an activation
_WEIGHT_SUM = 2.0**25  # of the absolute values of an output's integer weights: 2^(16 + 11 + 25) < 2^53
_ATTENTION_FRACTION, _ATTENTION_LARGEST = 14, 2.0**8
_LARGEST_DEPTH = 512  # 2^(14 + 8) squared, so often, is 2^53
_SOFTMAX_FRACTION = 24
_SQUARE_FRACTION = 20
_CHUNK_POSITIONS = 1 << 12  # pixels of the images that a thread takes at a time
_LAYER_NORM_EPSILON = 1e-5


def _round(x, fraction):
  return np.rint(x * 2.0**fraction)


class _Product:
  """A convolution `[k, k, C, D]` or dense layer `[C, D]`, with its bias."""

  def __init__(self, kernel, bias):
    kernel = kernel.astype(np.float64)
    self.size = kernel.shape[0] if kernel.ndim == 4 else 1
    matrix = kernel.reshape(-1, kernel.shape[-1])
    # The largest power of two with which the sum of an output's weights stays in its bound, rounding included.
    largest_sum = max(exact.total(np.abs(matrix), axis=0).max(initial=0.0), 2.0**-10 * len(matrix))
    self.fraction = int(np.frexp(_WEIGHT_SUM / largest_sum)[1]) - 2
    self.weights = _round(matrix, self.fraction).reshape(self.size, self.size, -1, matrix.shape[-1])
    self.bias = bias.astype(np.float64)

  def __call__(self, x):
    x = np.clip(x, -_LARGEST, _LARGEST)
    x *= 2.0**_FRACTION
    np.rint(x, out=x)
    y = (
      self._convolve(x)
      if self.size > 1
      else (x.reshape(-1, x.shape[-1]) @ self.weights[0, 0]).reshape(*x.shape[:-1], -1)
    )
    y *= 2.0 ** -(_FRACTION + self.fraction)
    y += self.bias
    return y

  def _convolve(self, x):
    """The sum over the kernel's places of a product of shifted images with a matrix.

    With zeros behind each row and each image, where a row's or an image's neighbours lie too, all pixels are rows of
    one matrix, and a shift is an offset in it.
    """
    n, height, width, channels = x.shape
    margin = self.size // 2
    rows, columns = height + margin, width + margin
    before = margin * columns + margin
    count = n * rows * columns
    padded = np.zeros((count + 2 * before, channels))
    padded[before : before + count].reshape(n, rows, columns, channels)[:, :height, :width] = x
    y, product = np.zeros((count, self.weights.shape[-1])), np.empty((count, self.weights.shape[-1]))
    for dy in range(self.size):
      for dx in range(self.size):
        start = dy * columns + dx
        y += np.matmul(padded[start : start + count], self.weights[dy, dx], out=product)
    return y.reshape(n, rows, columns, -1)[:, :height, :width].copy()


class _LayerNorm:
  """Layer norm of the last axis."""

  def __init__(self, gamma, beta):
    self.gamma, self.beta = gamma.astype(np.float64), beta.astype(np.float64)

  def __call__(self, x):
    channels = x.shape[-1]
    x = np.clip(x, -_LARGEST, _LARGEST)  # sums of squares stay below 2^53
    mean = _round(x, _FRACTION).sum(axis=-1, keepdims=True) * 2.0**-_FRACTION / channels
    centred = x - mean
    variance = _round(centred * centred, _SQUARE_FRACTION).sum(axis=-1, keepdims=True)
    variance = variance * 2.0**-_SQUARE_FRACTION / channels
    centred /= np.sqrt(variance + _LAYER_NORM_EPSILON)
    centred *= self.gamma
    centred += self.beta
    return centred


class _Block:
  """GatedConv and, if the network has one, the mixer of positions, each with its layer norm."""

  def __init__(self, weights, spec):
    product = lambda name: _Product(weights[f"{name}/kernel"], weights[f"{name}/bias"])
    norm = lambda name: _LayerNorm(weights[f"{name}/gamma"], weights[f"{name}/beta"]) if spec["layer_norm"] else None
    self.conv, self.conv_output = product("conv/conv"), product("conv/output_projection")
    self.context = product("conv/context_projection") if spec["context"] else None
    self.conv_norm = norm("conv_norm")
    self.mixer, self.heads = spec["mixer"], spec["heads"]
    if self.mixer != "none":
      self.mixer_input, self.mixer_output = product("mixer/input_projection"), product("mixer/output_projection")
      self.mixer_norm = norm("mixer_norm")

  def __call__(self, x, embedding, context):
    h = self.conv(exact.concat_elu(x))
    if self.context is not None:
      h += self.context(exact.concat_elu(context))
    x = _gated_sum(x, self.conv_output(exact.concat_elu(h)), self.conv_norm)
    if self.mixer == "none":
      return x
    h = self.mixer_input(x + embedding)
    if self.mixer == "attention":
      h = _attention(h, self.heads)
    else:
      h = h.reshape(*h.shape[:-1], -1, 3).max(axis=-1)
    return _gated_sum(x, self.mixer_output(h), self.mixer_norm)


def _gated_sum(x, h, norm):
  a, b = np.split(h, 2, axis=-1)
  x = x + a * exact.sigmoid(b)
  return x if norm is None else norm(x)


def _attention(qkv, heads):
  n, height, width, channels = qkv.shape
  depth = channels // (3 * heads)
  if depth > _LARGEST_DEPTH:
    raise InputError(f"the tier 'portable' is for attention heads of up to {_LARGEST_DEPTH} channels, got {depth}")
  qkv = qkv.reshape(n, height * width, 3, heads, depth).transpose(2, 0, 3, 1, 4)
  q, k, v = (
    _round(np.clip(part, -_ATTENTION_LARGEST, _ATTENTION_LARGEST), _ATTENTION_FRACTION)
    for part in (qkv[0] / np.sqrt(np.float64(depth)), qkv[1], qkv[2])
  )
  scores = np.matmul(q, k.swapaxes(-1, -2)) * 2.0 ** (-2 * _ATTENTION_FRACTION)
  scores = _round(exact.exp(scores - scores.max(axis=-1, keepdims=True)), _SOFTMAX_FRACTION)
  weights = _round(scores / scores.sum(axis=-1, keepdims=True), _SOFTMAX_FRACTION)
  mixed = np.matmul(weights, v) * 2.0 ** -(_SOFTMAX_FRACTION + _ATTENTION_FRACTION)
  return mixed.transpose(0, 2, 1, 3).reshape(n, height, width, heads * depth)


class Conditioner:
  """The network of a coupling.

  Args:
    weights: of the network, by name below its own.
    spec: `blocks`, `mixer`, `heads`, `layer_norm`, `context`, `output_concat_elu`.
  """

  def __init__(self, weights: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> None:
    self._input = _Product(weights["input_conv/kernel"], weights["input_conv/bias"])
    self._output = _Product(weights["output_conv/kernel"], weights["output_conv/bias"])
    self._blocks = [_Block(below(weights, f"block_{i}"), spec) for i in range(spec["blocks"])]
    self._embedding = _embedding(weights, spec)
    self._concat_elu = spec["output_concat_elu"]

  def __call__(self, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """Return the parameters `[N, H, W, outputs]` for `x [N, H, W, C]`."""
    h = self._input(x)
    for block in self._blocks:
      h = block(h, self._embedding, context)
    return self._output(exact.concat_elu(h) if self._concat_elu else h)


class ContextNet:
  """The network that reads images, for the couplings of the dequantizer and of the augmenter.

  Args:
    weights: of the network, by name below its own.
    spec: `blocks`, `mixer`, `heads`, `layer_norm`, `context`, `levels` (None for images that are not scaled).
  """

  def __init__(self, weights: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> None:
    self._input = _Product(weights["input_conv/kernel"], weights["input_conv/bias"])
    self._blocks = [_Block(below(weights, f"block_{i}"), spec) for i in range(spec["blocks"])]
    self._embedding = _embedding(weights, spec)
    self._levels = spec["levels"]

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Return the context `[N, H, W / 2, channels]` for `images [N, H, W, C]`."""
    n, height, width, channels = images.shape
    x = images.astype(np.float64)
    if self._levels is not None:
      x = x / self._levels - 0.5
    h = self._input(x.reshape(n, height, width // 2, 2 * channels))
    for block in self._blocks:
      h = block(h, self._embedding, None)
    return h


def _embedding(weights, spec):
  return None if spec["mixer"] == "none" else weights["position_embedding"].astype(np.float64)


def below(weights: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """Return the weights whose names begin with `name/`, without it."""
  prefix = f"{name}/"
  return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


class PortableNetworks:
  """All networks of a `CodecModel` in fixed point, the `Networks` of the tier "portable".

  Args:
    model: `CodecModel`.
  """

  def __init__(self, model: CodecModel) -> None:
    self._conditioners: dict[str, list[Conditioner]] = {}
    self._contexts: dict[str, ContextNet] = {}
    height, width, _ = model.image_shape
    self._chunk = max(_CHUNK_POSITIONS // (height * width), 1)
    for part, (name, flow) in model.flows().items():
      couplings = sum(count for _, count in flow["stages"])
      self._conditioners[part] = [
        Conditioner(below(model.weights, f"{name}/{i}/network"), flow["network"]) for i in range(couplings)
      ]
      if part != "flow":
        self._contexts[part] = ContextNet(below(model.weights, f"{part}/context"), model.description[part]["context"])

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """Return the parameters of a coupling, float64 `[N, H, W, outputs]`."""
    return self._in_chunks(self._conditioners[part][index], x, context)

  def context(self, part: str, images: np.ndarray) -> np.ndarray:
    """Return the context of a part's couplings, float64 `[N, H, W / 2, channels]`."""
    return self._in_chunks(self._contexts[part], images)

  def _in_chunks(self, network, *arrays):
    """A network's result for a batch, a few images at a time in each thread: what stays in a core's cache."""
    starts = range(0, len(arrays[0]), self._chunk)
    chunks = [[array if array is None else array[i : i + self._chunk] for array in arrays] for i in starts]
    return np.concatenate(in_threads(lambda chunk: network(*chunk), chunks))

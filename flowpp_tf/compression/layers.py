"""Layers in fixed point, with the same bits on every machine.

Matrix products take most of the time, and the order of their sums depends on the processor and the library. Here both
factors are integers in float64: as long as all partial sums are below 2^53, they are exact, and the order does not
matter. So each product rounds its input to multiples of 2^-16; its weights are rounded when they are loaded. All other
operations are functions of portable_math.py, and sums of integers.

The networks of exports (exporting/network_graph.py) are another text: each product, layer norm, softmax and attention
rounds here to a grid of its own, so that these bits could be kept only if all of them were operations of a machine, and
no formula was shared.

Products, gates and layer norms are evaluated by the loops of loops.py where they are compiled, with the same bits.
"""

from collections.abc import Mapping

import numpy as np

from flowpp_tf.compression import portable_math
from flowpp_tf.compression.kernels import KERNELS
from flowpp_tf.core.errors import InputError

FRACTION = 16  # fractional bits of an activation
LARGEST = 2.0**11  # of an activation
_WEIGHT_SUM = 2.0**25  # of the absolute values of an output's integer weights: 2^(16 + 11 + 25) < 2^53
_ATTENTION_FRACTION = 14
_ATTENTION_LARGEST = 2.0**8
_LARGEST_DEPTH = 512  # products of two numbers below 2^(14 + 8) have sums below 2^53
_SOFTMAX_FRACTION = 24
SQUARE_FRACTION = 20
LAYER_NORM_EPSILON = 1e-5


def _round(x, fraction):
  return np.rint(x * 2.0**fraction)


def _check_fits(shape, expected, what):
  """Raise a `ValueError` for a shape that is not as expected, as of an archive's model: compiled loops do not look."""
  if shape != expected:
    raise ValueError(f"{what} has the shape {list(shape)}; expected {list(expected)}")


class Product:
  """A convolution `[k, k, C, D]` or dense layer `[C, D]`, with its bias."""

  def __init__(self, weights: Mapping[str, np.ndarray], name: str) -> None:
    kernel = weights[f"{name}/kernel"].astype(np.float64)
    self.size = kernel.shape[0] if kernel.ndim == 4 else 1
    matrix = kernel.reshape(-1, kernel.shape[-1])
    # The largest power of two with which the sum of an output's weights stays in its bound, rounding included.
    sums = portable_math.total(np.abs(matrix), axis=0)
    largest_sum = max(sums.max(initial=0.0), 2.0**-10 * len(matrix))
    _, exponent = np.frexp(_WEIGHT_SUM / largest_sum)
    self.fraction = int(exponent) - 2
    self.weights = _round(matrix, self.fraction).reshape(self.size, self.size, -1, matrix.shape[-1])
    self.bias = weights[f"{name}/bias"].astype(np.float64)
    _check_fits(self.bias.shape, matrix.shape[-1:], f"{name}/bias")
    # All shifts side by side, `[C, k^2 D]`.
    by_input = self.weights.transpose(2, 0, 1, 3)
    self._beside = np.ascontiguousarray(by_input.reshape(len(by_input), -1))

  def __call__(self, x, elu=False):
    """Return the product of x, or of its concat_elu, `[N, H, W, D]`.

    Each pixel is multiplied with the kernel at all places, and its products are added where they belong. Encoding and
    decoding take 1.2 times as long where only the other loops are used: 200 images of the preset `digits`, CPU seconds
    of one core, the least of four.
    """
    n, height, width, channels = x.shape
    y = np.zeros((n, height, width, len(self.bias)))
    scale = 2.0 ** -(FRACTION + self.fraction)
    loops = KERNELS.loops
    if loops is not None:
      rounded = np.empty((n * height * width, 2 * channels if elu else channels))
      loops.round_inputs(rows(x), elu, rounded)
      loops.add_products(rounded @ self._beside, height, width, self.size, scale, self.bias, rows(y))
      return y
    if elu:
      x = portable_math.concat_elu(x)
    rounded = _round(np.clip(x, -LARGEST, LARGEST), FRACTION)
    products = (rows(rounded) @ self._beside).reshape(n, height, width, self.size, self.size, -1)
    for dy, dx in np.ndindex(self.size, self.size):
      down, right = dy - self.size // 2, dx - self.size // 2
      shifted = products[:, max(down, 0) : height + down, max(right, 0) : width + right, dy, dx]
      y[:, max(-down, 0) : height - down, max(-right, 0) : width - right] += shifted
    y *= scale
    y += self.bias
    return y


def rows(x: np.ndarray) -> np.ndarray:
  """Return a row for each pixel, as compiled loops take them."""
  return np.ascontiguousarray(x, np.float64).reshape(-1, x.shape[-1])


class LayerNorm:
  """Layer norm of the last axis."""

  def __init__(self, weights: Mapping[str, np.ndarray], name: str) -> None:
    self.gamma, self.beta = (weights[f"{name}/{part}"].astype(np.float64) for part in ("gamma", "beta"))

  def __call__(self, x):
    for parameter in (self.gamma, self.beta):
      _check_fits(parameter.shape, x.shape[-1:], "a parameter of a layer norm")
    loops = KERNELS.loops
    if loops is not None:
      result = np.empty(x.shape)
      loops.layer_norm(rows(x), self.gamma, self.beta, rows(result))
      return result
    channels = x.shape[-1]
    x = np.clip(x, -LARGEST, LARGEST)  # sums of squares stay below 2^53
    total = _round(x, FRACTION).sum(axis=-1, keepdims=True)
    centred = x - total * 2.0**-FRACTION / channels
    squares = _round(centred * centred, SQUARE_FRACTION)
    variance = squares.sum(axis=-1, keepdims=True) * 2.0**-SQUARE_FRACTION / channels
    centred /= np.sqrt(variance + LAYER_NORM_EPSILON)
    centred *= self.gamma
    centred += self.beta
    return centred


def gated_sum(x: np.ndarray, h: np.ndarray, norm: LayerNorm | None) -> np.ndarray:
  """Return x + a sigmoid(b) for h = [a, b], and its layer norm if there is one."""
  _check_fits(h.shape, (*x.shape[:-1], 2 * x.shape[-1]), "what is added with a gate")
  loops = KERNELS.loops
  if loops is None:
    a, b = np.split(h, 2, axis=-1)
    result = x + a * portable_math.sigmoids(b)[0]
  else:
    result = np.empty(x.shape)
    loops.gated_sum(rows(x), rows(h), rows(result))
  return result if norm is None else norm(result)


def largest_of_three(h: np.ndarray) -> np.ndarray:
  """Return the largest of each three neighbouring channels."""
  largest = np.maximum(h[..., ::3], h[..., 1::3])
  return np.maximum(largest, h[..., 2::3])


def attention(qkv: np.ndarray, heads: int) -> np.ndarray:
  """Return the attention between all positions, for queries, keys and values `[N, H, W, 3 C]`."""
  n, height, width, channels = qkv.shape
  depth = channels // (3 * heads)
  if depth > _LARGEST_DEPTH:
    raise InputError(f"the codec is for attention heads of up to {_LARGEST_DEPTH} channels, got {depth}")
  qkv = qkv.reshape(n, height * width, 3, heads, depth)
  q, k, v = qkv.transpose(2, 0, 3, 1, 4)
  q = _attention_integers(q / np.sqrt(np.float64(depth)))
  k = _attention_integers(k)
  v = _attention_integers(v)
  scores = np.matmul(q, k.swapaxes(-1, -2)) * 2.0 ** (-2 * _ATTENTION_FRACTION)
  scores = scores - scores.max(axis=-1, keepdims=True)
  scores = _round(portable_math.exp(scores), _SOFTMAX_FRACTION)
  weights = scores / scores.sum(axis=-1, keepdims=True)
  weights = _round(weights, _SOFTMAX_FRACTION)
  mixed = np.matmul(weights, v) * 2.0 ** -(_SOFTMAX_FRACTION + _ATTENTION_FRACTION)
  return mixed.transpose(0, 2, 1, 3).reshape(n, height, width, heads * depth)


def _attention_integers(x):
  clipped = np.clip(x, -_ATTENTION_LARGEST, _ATTENTION_LARGEST)
  return _round(clipped, _ATTENTION_FRACTION)

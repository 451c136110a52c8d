"""The conditioners and the context net in fixed point, with the same bits on every machine. Flow++ section 3.2.2.

Matrix products take most of the time, and the order of their sums depends on the processor and the library. Here both
factors are integers in float64: as long as all partial sums are below 2^53, they are exact, and the order does not
matter. So each product rounds its input to multiples of 2^-16; its weights are rounded when they are loaded. All other
operations are functions of `exact`, and sums of integers. network_loops.py has the same for a compiler.
"""

from collections.abc import Mapping
import functools
import threading
from typing import Any

import numpy as np

from flowpp_tf.compression import exact, threads
from flowpp_tf.compression.bits_back_coder import Networks
from flowpp_tf.compression.description import CodecModel, below
from flowpp_tf.compression.memory import PRODUCT_ROWS, CodecMemory
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tiles import unit_of, without_middle
from flowpp_tf.io import budget

FRACTION = 16  # fractional bits of an activation
LARGEST = 2.0**11  # of an activation
_WEIGHT_SUM = 2.0**25  # of the absolute values of an output's integer weights: 2^(16 + 11 + 25) < 2^53
_ATTENTION_FRACTION, _ATTENTION_LARGEST = 14, 2.0**8
_LARGEST_DEPTH = 512  # products of two numbers below 2^(14 + 8) have sums below 2^53
_SOFTMAX_FRACTION = 24
SQUARE_FRACTION = 20
LAYER_NORM_EPSILON = 1e-5
_loops: Any = None


def use(loops: Any) -> None:
  """Evaluate what is between products by the compiled loops of a module from now on; None for NumPy again.

  A network takes them for a whole call, so that they may change meanwhile.
  """
  global _loops
  _loops = loops


def _round(x, fraction):
  return np.rint(x * 2.0**fraction)


def _check_fits(shape, expected, what):
  """Raise a `ValueError` for a shape that is not as expected, as of an archive's model: compiled loops do not look."""
  if shape != expected:
    raise ValueError(f"{what} has the shape {list(shape)}; expected {list(expected)}")


class Product:
  """A convolution `[k, k, C, D]` or dense layer `[C, D]`, with its bias."""

  def __init__(self, weights, name):
    kernel = weights[f"{name}/kernel"].astype(np.float64)
    self.size = kernel.shape[0] if kernel.ndim == 4 else 1
    matrix = kernel.reshape(-1, kernel.shape[-1])
    # The largest power of two with which the sum of an output's weights stays in its bound, rounding included.
    largest_sum = max(exact.total(np.abs(matrix), axis=0).max(initial=0.0), 2.0**-10 * len(matrix))
    self.fraction = int(np.frexp(_WEIGHT_SUM / largest_sum)[1]) - 2
    self.weights = _round(matrix, self.fraction).reshape(self.size, self.size, -1, matrix.shape[-1])
    self.bias = weights[f"{name}/bias"].astype(np.float64)
    self._name = name
    _check_fits(self.bias.shape, matrix.shape[-1:], f"{name}/bias")
    # All shifts side by side, `[C, k^2 D]`.
    self._beside = np.ascontiguousarray(self.weights.transpose(2, 0, 1, 3).reshape(self.weights.shape[2], -1))

  def __call__(self, x, loops, elu=False):
    """Return the product of x, or of its concat_elu, `[N, H, W, D]`."""
    _check_fits(((2 if elu else 1) * x.shape[-1],), self.weights.shape[2:3], f"what {self._name}/kernel multiplies")
    if loops is not None:
      return self._in_loops(x, loops, elu)
    if elu:
      x = exact.concat_elu(x)
    x = np.clip(x, -LARGEST, LARGEST)
    x *= 2.0**FRACTION
    np.rint(x, out=x)
    y = (
      self._convolve(x)
      if self.size > 1
      else (x.reshape(-1, x.shape[-1]) @ self.weights[0, 0]).reshape(*x.shape[:-1], -1)
    )
    y *= 2.0 ** -(FRACTION + self.fraction)
    y += self.bias
    return y

  def _in_loops(self, x, loops, elu):
    """Return the same: the products of each pixel with the kernel at all places, added where they belong."""
    n, height, width, channels = x.shape
    inputs, outputs = len(self._beside), len(self.bias)
    x, y = np.ascontiguousarray(x, np.float64), np.empty((n, height, width, outputs))
    scale, margin = 2.0 ** -(FRACTION + self.fraction), self.size // 2
    images, lines = max(PRODUCT_ROWS // (height * width), 1), min(max(PRODUCT_ROWS // width, 1), height)
    for i in range(0, n, images):
      for top in range(0, height, lines):  # of one image, if these are not all of its rows
        end = min(top + lines, height)
        first, last = max(top - margin, 0), min(end + margin, height)
        part, result = x[i : i + images, first:last], y[i : i + images, top:end]
        rounded = np.empty((part.size // channels, inputs))
        loops.round_inputs(rows(part), elu, rounded)
        products = rounded @ self._beside
        sizes = last - first, top - first, end - top, width, self.size
        loops.add_products(products, *sizes, scale, self.bias, rows(result))
    return y

  def _convolve(self, x):
    """Return the sum, over the kernel's positions, of the products of shifted images with a matrix.

    Zeros follow each row and each image, and serve as padding of their neighbours too. So all pixels are rows of one
    matrix, and a shift is an offset in it.
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


def rows(x: np.ndarray) -> np.ndarray:
  """Return a row for each pixel, as compiled loops take them."""
  return np.ascontiguousarray(x, np.float64).reshape(-1, x.shape[-1])


class LayerNorm:
  """Layer norm of the last axis."""

  def __init__(self, weights, name):
    self.gamma, self.beta = (weights[f"{name}/{part}"].astype(np.float64) for part in ("gamma", "beta"))

  def __call__(self, x, loops):
    for parameter in (self.gamma, self.beta):
      _check_fits(parameter.shape, x.shape[-1:], "a parameter of a layer norm")
    if loops is not None:
      result = np.empty(x.shape)
      loops.layer_norm(rows(x), self.gamma, self.beta, rows(result))
      return result
    channels = x.shape[-1]
    x = np.clip(x, -LARGEST, LARGEST)  # sums of squares stay below 2^53
    mean = _round(x, FRACTION).sum(axis=-1, keepdims=True) * 2.0**-FRACTION / channels
    centred = x - mean
    variance = _round(centred * centred, SQUARE_FRACTION).sum(axis=-1, keepdims=True)
    variance = variance * 2.0**-SQUARE_FRACTION / channels
    centred /= np.sqrt(variance + LAYER_NORM_EPSILON)
    centred *= self.gamma
    centred += self.beta
    return centred


class _Block:
  """GatedConv and, if there is one, the mixer of positions, each with its layer norm."""

  def __init__(self, weights, spec):
    norm = lambda name: LayerNorm(weights, name) if spec["layer_norm"] else None
    self.conv, self.conv_output = Product(weights, "conv/conv"), Product(weights, "conv/output_projection")
    self.context = Product(weights, "conv/context_projection") if spec["context"] else None
    self.conv_norm = norm("conv_norm")
    self.mixer, self.heads = spec["mixer"], spec["heads"]
    if self.mixer != "none":
      self.mixer_input = Product(weights, "mixer/input_projection")
      self.mixer_output = Product(weights, "mixer/output_projection")
      self.mixer_norm = norm("mixer_norm")

  def __call__(self, x, embedding, context, loops):
    h = self.conv(x, loops, elu=True)
    if self.context is not None:
      h += self.context(context, loops, elu=True)
    x = gated_sum(x, self.conv_output(h, loops, elu=True), self.conv_norm, loops)
    if self.mixer == "none":
      return x
    h = self.mixer_input(x + embedding, loops)
    if self.mixer == "attention":
      h = _attention(h, self.heads)
    else:
      h = largest_of_three(h, loops)
    return gated_sum(x, self.mixer_output(h, loops), self.mixer_norm, loops)


def gated_sum(x: np.ndarray, h: np.ndarray, norm: LayerNorm | None, loops: Any) -> np.ndarray:
  """Return x + a sigmoid(b) for h = [a, b], and its layer norm if there is one."""
  _check_fits(h.shape, (*x.shape[:-1], 2 * x.shape[-1]), "what is added with a gate")
  if loops is None:
    a, b = np.split(h, 2, axis=-1)
    result = x + a * exact.sigmoid(b)
  else:
    result = np.empty(x.shape)
    loops.gated_sum(rows(x), rows(h), rows(result))
  return result if norm is None else norm(result, loops)


def largest_of_three(h: np.ndarray, loops: Any) -> np.ndarray:
  """Return the largest of each three neighbouring channels."""
  _check_fits(h.shape[-1:], (h.shape[-1] // 3 * 3,), "the input of a maximum of three")
  if loops is None:
    return np.maximum(np.maximum(h[..., ::3], h[..., 1::3]), h[..., 2::3])
  result = np.empty((*h.shape[:-1], h.shape[-1] // 3))
  loops.largest_of_three(rows(h), rows(result))
  return result


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


class Network:
  """The network of a coupling, or one that reads images for the couplings of the dequantizer and of the augmenter.

  Args:
    weights: of the network, by name below its own.
    spec: `blocks`, `mixer`, `heads`, `layer_norm`, `context`; `output_concat_elu` of a coupling's network.
    image_shape: of the model.
    step: of its tiles, see core/tiles.py.
  """

  def __init__(
    self,
    weights: Mapping[str, np.ndarray],
    spec: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    step: tuple[int, int],
  ) -> None:
    self._unit = lambda shape: unit_of(shape, image_shape, step)
    self._input = Product(weights, "input_conv")
    self._blocks = [_Block(below(weights, f"block_{i}"), spec) for i in range(spec["blocks"])]
    self._embedding = None if spec["mixer"] == "none" else weights["position_embedding"].astype(np.float64)
    self._concat_elu = spec.get("output_concat_elu")
    self._output = None if self._concat_elu is None else Product(weights, "output_conv")

  def __call__(self, x: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
    """Return `[N, H, W, outputs]` for `x [N, H, W, C]`, whose height and width may be less than the model's."""
    return self.evaluate(x, context, _loops)

  def evaluate(self, x: np.ndarray, context: np.ndarray | None, loops: Any) -> np.ndarray:
    """Return the same by the compiled loops of a module; None for NumPy."""
    h = self._input(x, loops)
    embedding = self._embedding
    if embedding is not None:
      embedding = without_middle(embedding, x.shape[1], x.shape[2], self._unit(embedding.shape))
    for block in self._blocks:
      h = block(h, embedding, context, loops)
    if self._output is None:
      return h
    return self._output(h, loops, elu=bool(self._concat_elu))


class PortableNetworks(Networks):
  """All networks of a `CodecModel` in fixed point, for the tier "portable".

  Args:
    model: `CodecModel`.
  """

  least_values = 1 << 13  # in smaller arrays NumPy's operations are so short that threads wait for the GIL

  def __init__(self, model: CodecModel) -> None:
    self._dims = model.num_dims
    make = functools.partial(Network, image_shape=model.image_shape, step=model.tile_step)
    self._conditioners: dict[str, list[Network]] = {}
    self._context_nets: dict[str, tuple[Network, int | None]] = {}
    memory = CodecMemory.of(model)
    self._chunk = memory.at_a_time
    # All threads together, of all batches, may take half of the budget.
    most = max(budget.current().memory // (2 * max(memory.at_a_time * memory.network, 1)), 1)
    self._free = threading.Semaphore(most)
    for part, (name, flow) in model.flows().items():
      couplings = sum(count for _, count in flow["stages"])
      self._conditioners[part] = [
        make(below(model.weights, f"{name}/{i}/network"), flow["network"]) for i in range(couplings)
      ]
      if part != "flow":
        spec = model.description[part]["context"]
        self._context_nets[part] = make(below(model.weights, f"{part}/context"), spec), spec["levels"]
    if model.sees_neighbours:
      self._condition_net = make(below(model.weights, "condition"), model.description["condition"])

  def conditioner(self, part: str, index: int, x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    if context is not None and context.shape[1:3] != x.shape[1:3]:
      context = _blocks_to_channels(context, *x.shape[1:3])
    return self._in_chunks(self._conditioners[part][index], x, context)

  def context(self, part: str, images: np.ndarray) -> np.ndarray:
    network, levels = self._context_nets[part]
    n, height, width, channels = images.shape
    x = images.astype(np.float64)
    if levels is not None:
      x = x / levels - 0.5
    return self._in_chunks(network, x.reshape(n, height, width // 2, 2 * channels))

  def condition(self, neighbours: np.ndarray) -> np.ndarray:
    return self._in_chunks(self._condition_net, neighbours)

  def _in_chunks(self, network, *arrays):
    """Return a network's output for a batch; each thread takes as many images at a time as fit in a core's cache."""
    count, size = len(arrays[0]), self._chunk
    if count * self._dims >= self.least_values:  # of small batches fewer: each core has some
      size = max(min(size, -(-count // threads.CORES)), 1)
    chunks = [[array if array is None else array[i : i + size] for array in arrays] for i in range(0, count, size)]
    return np.concatenate(threads.in_threads(lambda chunk: network(*chunk), chunks, self._free))


def _blocks_to_channels(context, height, width):
  """Return a context `[N, a H, b W, C]` as `[N, H, W, a b C]`."""
  n, rows, columns, channels = context.shape
  blocks = context.reshape(n, height, rows // height, width, columns // width, channels)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, -1)

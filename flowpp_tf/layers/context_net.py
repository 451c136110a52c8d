"""Networks that compute the context of couplings: Flow++ section 3.1 and appendix, and conditional images.

`ContextNet` reads the image for the variational dequantizer. The integer image is scaled to [-1/2, 1/2), split by
columns, and both halves are stacked on the channels: the context then has the height and width of the input of the
dequantizer's couplings. A 3x3 convolution and gated convolutions follow; the ImageNet models add layer norm and
attention. The posterior of augmented channels reads the image by the same network.

`ConditionNet` reads a label, another image, or both, for the couplings of the flow:

    c = E[label] + f(condition)

E has a row for images without a label, so that one model is conditional and unconditional, for guidance (guided.py).
f is a stack of the gated convolutions of section 3.2.2 at the condition's own size; its features are repeated up to
the size of the image.
"""

import dataclasses
import math
from typing import Any

from jaxtyping import Float, Int, Num
import keras
import tensorflow as tf

from flowpp_tf.config.model import NetworkConfig
from flowpp_tf.core.checks import (
  as_tensor,
  check_arguments,
  check_count,
  check_shape_of_images,
  check_tensor,
  check_type,
)
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.layers.blocks import apply_blocks, variables_of
from flowpp_tf.layers.gated import ConvAttentionBlock
from flowpp_tf.layers.init_norm import InitNormConv2D
from flowpp_tf.types import Shape


@keras.saving.register_keras_serializable("flowpp_tf")
class ContextNet(keras.layers.Layer):
  """The network from images to the context of the dequantizer's couplings.

  Args:
    image_shape: `(H, W, C)`, so that the layer is built when constructed; W is even.
    levels: number of pixel values of integer images; None for images that are not scaled.
    network: `NetworkConfig`; its `filters` are the channels of the context. A mixer "attention" has a position
      embedding shared by the blocks.

  `call(images [N, H, W, C], ctx=EvalContext())` gives `[N, H, W / 2, filters]`.

  Examples:
    >>> net = fpp.layers.ContextNet((8, 8, 1), levels=17, network=fpp.layers.NetworkConfig(16, 1, "none"))
    >>> net(tf.zeros([2, 8, 8, 1])).shape
    TensorShape([2, 8, 4, 16])
  """

  @check_arguments
  def __init__(
    self, image_shape: Shape, levels: int | None, network: NetworkConfig | dict[str, Any], **kwargs: Any
  ) -> None:
    super().__init__(**kwargs)
    self._convert_input_args = False  # Keras would cast images before they are scaled
    self._allow_non_tensor_positional_args = True  # `call` takes arrays too
    height, width, channels = check_shape_of_images("image_shape", image_shape)
    if width % 2:
      raise InputError(f"`image_shape` must have an even width, got {tuple(image_shape)}")
    if levels is not None:
      check_count("levels", levels)
    network = NetworkConfig.from_config(network)
    self.image_shape = tuple(image_shape)
    self.levels = levels
    self.network = network
    self.input_conv = _input_conv(network, self.dtype_policy)
    self.blocks = [_block(network, i, self.dtype_policy) for i in range(network.blocks)]
    self.half_shape = (height, width // 2, 2 * channels)
    inside = (height, width // 2, network.filters)
    with keras.name_scope(self.name, caller=self):  # part of the weights' paths
      self.input_conv.build((None, *self.half_shape))
      for block in self.blocks:
        block.build((None, *inside))
    self.position_embedding = None
    if network.mixer != "none" and network.padding == "zeros":
      self.position_embedding = self.add_weight(
        name="position_embedding", shape=inside, initializer=keras.initializers.RandomNormal(stddev=0.01)
      )
    self._in_lists = variables_of(self.blocks)
    self.built = True

  def call(self, images: Num[tf.Tensor, "n h w c"], ctx: EvalContext = EvalContext()) -> Float[tf.Tensor, "n h w//2 k"]:
    check_type("ctx", ctx, EvalContext)
    images = as_tensor("images", images)
    check_tensor("images", images, [None, *self.image_shape], "real")
    if self.levels is not None:  # scale before the cast to a narrow dtype: float16 has no numbers above 65,504
      images = tf.cast(images, self.variable_dtype) / self.levels - 0.5
    x = tf.cast(images, self.compute_dtype)
    halves = tf.reshape(x, [-1, *self.half_shape])
    h = self.input_conv(halves, initialize=ctx.initialize)
    embedding = None if self.position_embedding is None else tf.cast(self.position_embedding, h.dtype)
    return apply_blocks(self.blocks, h, embedding, ctx=ctx, remat=self.network.remat)

  def get_config(self) -> dict[str, Any]:
    config = dict(image_shape=self.image_shape, levels=self.levels, network=dataclasses.asdict(self.network))
    return {**super().get_config(), **config}


def _input_conv(network, dtype):
  options: dict[str, Any] = dict(weight_norm=network.weight_norm, padding=network.padding, dtype=dtype)
  return InitNormConv2D(network.filters, name="input_conv", **options)


def _block(network, index, dtype):
  return ConvAttentionBlock(network, output_kernel_size=3, name=f"block_{index}", dtype=dtype)


@keras.saving.register_keras_serializable("flowpp_tf")
class ConditionNet(keras.layers.Layer):
  """The network from labels and conditions to the context of the flow's couplings.

  Args:
    image_shape: `(H, W, C)` of the images.
    num_classes: number of classes; 0 for images without labels.
    condition_shape: `(h, w, c)` of the condition, where h divides H and w divides W; empty for none.
    network: `NetworkConfig`, whose `filters` are the channels of the context; None for one block of 32.

  `call(labels=None, condition=None, ctx=EvalContext())`, for labels `[N]` and conditions `[N, h, w, c]`, gives the
  context: `[N, H, W, filters]` with a condition, `[N, 1, 1, filters]` for labels only.

  Raises:
    InputError (a ValueError): for a network of neither labels nor conditions; from a call, if one of them is missing or
      not expected.

  Examples:
    >>> net = fpp.layers.ConditionNet((8, 8, 1), num_classes=10, network=fpp.layers.NetworkConfig(16, 1, "none"))
    >>> net(tf.constant([3, -1])).shape  # -1: no label
    TensorShape([2, 1, 1, 16])
  """

  @check_arguments
  def __init__(
    self,
    image_shape: Shape,
    num_classes: int = 0,
    condition_shape: Shape = (),
    network: NetworkConfig | dict[str, Any] | None = None,
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    check_shape_of_images("image_shape", image_shape)
    check_count("num_classes", num_classes, 0)
    if not num_classes and not len(condition_shape):
      raise InputError("`num_classes` or `condition_shape` must be given")
    if network is None:
      network = NetworkConfig(32, 1, "none")
    network = NetworkConfig.from_config(network)
    self._config = dict(
      image_shape=tuple(image_shape),
      num_classes=num_classes,
      condition_shape=tuple(condition_shape),
      network=dataclasses.asdict(network),
    )
    self.remat = network.remat
    self._condition_shape = tuple(condition_shape)
    self.embedding = self.input_conv = None
    self.blocks: list[ConvAttentionBlock] = []
    with keras.name_scope(self.name, caller=self):  # part of the weights' paths
      if num_classes:
        self.embedding = LabelEmbedding(num_classes, network.filters, name="embedding", dtype=self.dtype_policy)
      if len(condition_shape):
        height, width, _ = check_shape_of_images("condition_shape", condition_shape)
        self.repeats = image_shape[0] // height, image_shape[1] // width
        if image_shape[0] % height or image_shape[1] % width:
          raise InputError(
            f"`condition_shape` must have sides that divide those of `image_shape` {tuple(image_shape)}, "
            f"got {tuple(condition_shape)}"
          )
        self.input_conv = _input_conv(network, self.dtype_policy)
        self.input_conv.build((None, *condition_shape))
        for i in range(network.blocks):
          block = _block(network, i, self.dtype_policy)
          block.build((None, height, width, network.filters))
          self.blocks.append(block)
    self._in_lists = variables_of(self.blocks)
    self.built = True

  def call(
    self,
    labels: Int[tf.Tensor, " n"] | None = None,
    condition: Num[tf.Tensor, "n h w k"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n height width c"]:
    check_type("ctx", ctx, EvalContext)
    _check_given("labels", labels, self.embedding)
    _check_given("condition", condition, self.input_conv)
    count = None
    context: Any = 0.0
    if self.embedding is not None:
      context = self.embedding.call(labels)  # errors from `__call__` would not name the argument
      count = context.shape[0]
    if self.input_conv is None:
      return context
    check_tensor("condition", condition, [count, *self._condition_shape], "real")
    h = self.input_conv(tf.cast(condition, self.compute_dtype), initialize=ctx.initialize)
    h = apply_blocks(self.blocks, h, None, ctx=ctx, remat=self.remat)
    for axis, repeats in enumerate(self.repeats, 1):
      if repeats > 1:
        h = tf.repeat(h, repeats, axis=axis)
    return h + context

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._config}


def _check_given(name, value, reader):
  """Raise an `InputError` unless an input is given exactly if the network has the layer that reads it."""
  if (value is None) != (reader is None):
    raise InputError(f"`{name}` must be {'None' if reader is None else 'given'}: the network was made so")


@keras.saving.register_keras_serializable("flowpp_tf")
class LabelEmbedding(keras.layers.Layer):
  """Embedding of labels `[N]` as a context `[N, 1, 1, channels]` for images.

  Args:
    num_classes: labels are in 0 .. num_classes - 1; -1 stands for an image without a label.
    channels: channels of the context.

  Labels out of range give NaN.

  Examples:
    >>> fpp.layers.LabelEmbedding(10, 4)(tf.constant([3, -1])).shape
    TensorShape([2, 1, 1, 4])
  """

  @check_arguments
  def __init__(self, num_classes: int, channels: int, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    check_count("num_classes", num_classes)
    check_count("channels", channels)
    self.num_classes = num_classes
    self.channels = channels
    # The last row is for images without a label.
    self.table = self.add_weight(
      name="table", shape=(num_classes + 1, channels), initializer=keras.initializers.RandomNormal(stddev=0.5)
    )
    self.built = True

  def call(self, labels: Int[tf.Tensor, " n"]) -> Float[tf.Tensor, "n 1 1 c"]:
    check_tensor("labels", labels, [None], "integer")
    labels = tf.cast(labels, tf.int64)  # int8 could not hold the number of classes
    known = (labels >= -1) & (labels < self.num_classes)
    labels = tf.cast(tf.where(known, labels, -1), tf.int32)
    rows = tf.where(labels < 0, self.num_classes, labels)
    # A product with one-hot vectors has a dense gradient. For labels out of range it would give zeros, not NaN.
    one_hot = tf.one_hot(rows, self.num_classes + 1, dtype=self.compute_dtype)
    vectors = tf.matmul(one_hot, tf.cast(self.table, self.compute_dtype))
    nan = tf.cast(math.nan, vectors.dtype)
    vectors = tf.where(known[:, tf.newaxis], vectors, nan)
    return vectors[:, tf.newaxis, tf.newaxis]

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "num_classes": self.num_classes, "channels": self.channels}

"""The condition of the flow's couplings: an embedding of the label, features of another image, or their sum.

    c = E[label] + f(condition)

E has a row for labels that are left out, so that one model is conditional and unconditional, for guidance (guided.py).
f is a stack of the gated convolutions of section 3.2.2 at the condition's
own size; its features are repeated up to the size of the image.
"""

import dataclasses
from typing import Any

from jaxtyping import Float, Int, Num
import keras
import tensorflow as tf

from flowpp_tf.config.network import NetworkConfig
from flowpp_tf.core.checks import check_arguments, check_count, check_shape, check_shape_of_images
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.layers.blocks import apply_blocks, variables_of
from flowpp_tf.layers.conditioner import ConvAttentionBlock
from flowpp_tf.layers.init_norm import InitNormConv2D
from flowpp_tf.layers.label_embedding import LabelEmbedding
from flowpp_tf.types import Shape


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
    ValueError: if there is neither a label nor a condition.

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
      raise ValueError("`num_classes` or `condition_shape` must be given")
    network = NetworkConfig.of(NetworkConfig(32, 1, "none") if network is None else network)
    self._config = dict(
      image_shape=tuple(image_shape),
      num_classes=num_classes,
      condition_shape=tuple(condition_shape),
      network=dataclasses.asdict(network),
    )
    self.remat, self._condition_shape = network.remat, tuple(condition_shape)
    self.embedding = self.input_conv = None
    self.blocks: list[ConvAttentionBlock] = []
    if len(condition_shape):
      height, width, _ = check_shape_of_images("condition_shape", condition_shape)
      if image_shape[0] % height or image_shape[1] % width:
        raise ValueError(
          f"`condition_shape` must have sides that divide those of `image_shape` {tuple(image_shape)}, "
          f"got {tuple(condition_shape)}"
        )
    with keras.name_scope(self.name, caller=self):  # of the weights' paths
      if num_classes:
        self.embedding = LabelEmbedding(num_classes, network.filters, name="embedding", dtype=self.dtype_policy)
      if len(condition_shape):
        self.repeats = image_shape[0] // height, image_shape[1] // width
        options: dict[str, Any] = dict(dtype=self.dtype_policy)
        self.input_conv = InitNormConv2D(
          network.filters, name="input_conv", weight_norm=network.weight_norm, padding=network.padding, **options
        )
        self.input_conv.build((None, *condition_shape))
        for i in range(network.blocks):
          block = ConvAttentionBlock.of_network(network, output_kernel_size=3, name=f"block_{i}", **options)
          block.build((None, height, width, network.filters))
          self.blocks.append(block)
    self._in_lists = variables_of(self.blocks)
    self.built = True

  def build(self, *shapes: tuple) -> None:
    """Do nothing: the layer is built when constructed."""

  @check_arguments
  def call(
    self,
    labels: Int[tf.Tensor, " n"] | None = None,
    condition: Num[tf.Tensor, "n h w k"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n height width c"]:
    for name, value, wanted in (("labels", labels, self.embedding), ("condition", condition, self.input_conv)):
      if (value is None) != (wanted is None):
        raise InputError(f"`{name}` must be {'None' if wanted is None else 'given'}: the network was made so")
    if condition is not None:
      count = None if labels is None else labels.shape[0]
      check_shape("condition", condition.shape, [count, *self._condition_shape])
    context = 0.0 if self.embedding is None else self.embedding(labels)
    if self.input_conv is None:
      return context
    h = self.input_conv(tf.cast(condition, self.compute_dtype), initialize=ctx.initialize)
    h = apply_blocks(self.blocks, h, None, ctx=ctx, remat=self.remat)
    for axis, count in enumerate(self.repeats, 1):
      h = h if count == 1 else tf.repeat(h, count, axis=axis)
    return h + context

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._config}

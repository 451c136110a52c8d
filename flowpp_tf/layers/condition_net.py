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
from flowpp_tf.core.context import EvalContext
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

  def __init__(
    self,
    image_shape: Shape,
    num_classes: int = 0,
    condition_shape: Shape = (),
    network: NetworkConfig | dict[str, Any] | None = None,
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    if not num_classes and not condition_shape:
      raise ValueError("`num_classes` or `condition_shape` must be given")
    network = NetworkConfig.of(network or NetworkConfig(32, 1, "none"))
    self._config = dict(
      image_shape=tuple(image_shape),
      num_classes=num_classes,
      condition_shape=tuple(condition_shape),
      network=dataclasses.asdict(network),
    )
    self.remat = network.remat
    self.embedding = self.input_conv = None
    self.blocks: list[ConvAttentionBlock] = []
    with keras.name_scope(self.name, caller=self):  # of the weights' paths
      if num_classes:
        self.embedding = LabelEmbedding(num_classes, network.filters, name="embedding", dtype=self.dtype_policy)
      if condition_shape:
        height, width, _ = condition_shape
        self.repeats = image_shape[0] // height, image_shape[1] // width
        options: dict[str, Any] = dict(dtype=self.dtype_policy)
        self.input_conv = InitNormConv2D(network.filters, name="input_conv", weight_norm=network.weight_norm, **options)
        self.input_conv.build((None, *condition_shape))
        for i in range(network.blocks):
          block = ConvAttentionBlock.of_network(network, output_kernel_size=3, name=f"block_{i}", **options)
          block.build((None, height, width, network.filters))
          self.blocks.append(block)
    self._in_lists = variables_of(self.blocks)
    self.built = True

  def build(self, *shapes: tuple) -> None:
    """Do nothing: the layer is built when constructed."""

  def call(
    self,
    labels: Int[tf.Tensor, " n"] | None = None,
    condition: Num[tf.Tensor, "n h w k"] | None = None,
    ctx: EvalContext = EvalContext(),
  ) -> Float[tf.Tensor, "n height width c"]:
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

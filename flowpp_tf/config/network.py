"""The sizes of a network of blocks, which conditioners and the context net take."""

import dataclasses
from typing import Any, Union

from flowpp_tf.core.checks import shown
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import COUNT, FRACTION, Settings, at_least, one_of, setting

MIXERS = ("attention", "pointwise", "none")
PADDINGS = ("zeros", "periodic")


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Settings):
  """What the blocks of a network are; see `ConvAttentionBlock`.

  Raises:
    InputError (a ValueError): if a field is invalid; the message names it.

  Examples:
    >>> fpp.layers.NetworkConfig(filters=96, blocks=10, dropout=0.2).mixer
    'attention'
  """

  filters: int = setting(dataclasses.MISSING, "Channels inside.", COUNT)
  blocks: int = setting(dataclasses.MISSING, "Number of blocks.", at_least(0, 2**16))
  mixer: str = setting(
    "attention", "Of positions: attention, pointwise (the paper's ablation) or none.", one_of(*MIXERS)
  )
  heads: int = setting(4, "Heads of the attention.", COUNT)
  layer_norm: bool = setting(True, "Whether to normalise after each residual sum.")
  dropout: float = setting(0.0, "Dropout rate.", FRACTION)
  weight_norm: bool = setting(False, "As in `InitNormConv2D`.")
  remat: bool = setting(False, "Whether gradients recompute blocks rather than keep their intermediate tensors.")
  padding: str = setting(
    "zeros", "Of convolutions: zeros or periodic; periodic networks have no position embedding.", one_of(*PADDINGS)
  )

  @classmethod
  def of(cls, value: Union["NetworkConfig", dict[str, Any]]) -> "NetworkConfig":
    """Return a config, or the config of a `dict` that Keras has serialised."""
    if isinstance(value, dict):
      unknown = {*value} - {field.name for field in dataclasses.fields(cls)}
      if unknown:
        raise InputError(f"`network` must have the fields of `NetworkConfig`, got {', '.join(map(repr, unknown))}")
      return cls(**value)
    if not isinstance(value, cls):
      raise InputError(f"`network` must be a `NetworkConfig`, got {shown(value)}")
    return value

"""The sizes of a network of blocks, which conditioners and the context net take."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """What the blocks of a network are; see `ConvAttentionBlock`.

  Attributes:
    filters: channels inside.
    blocks: number of blocks.
    mixer: of positions: "attention", "pointwise" (the paper's ablation) or "none".
    heads: of the attention.
    layer_norm: whether to normalise after each residual sum.
    dropout: rate.
    weight_norm: as in `InitNormConv2D`.
    remat: whether gradients recompute blocks rather than keep their intermediate tensors.

  Examples:
    >>> fpp.layers.NetworkConfig(filters=96, blocks=10, dropout=0.2).mixer
    'attention'
  """

  filters: int
  blocks: int
  mixer: str = "attention"
  heads: int = 4
  layer_norm: bool = True
  dropout: float = 0.0
  weight_norm: bool = False
  remat: bool = False

  @classmethod
  def of(cls, value: NetworkConfig | dict[str, Any]) -> NetworkConfig:
    """Return a config, or the config of a `dict` that Keras has serialised."""
    return value if isinstance(value, cls) else cls(**value)  # type: ignore[arg-type]

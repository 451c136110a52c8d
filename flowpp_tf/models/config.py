"""Architecture as data: a frozen config for every experiment. Flow++ section 4 and appendix."""

import dataclasses
import numbers

from flowpp_tf.errors import InputError
from flowpp_tf.errors import unknown_name
from flowpp_tf.models.structure import parse_structure


@dataclasses.dataclass(frozen=True)
class FlowPlusPlusConfig:
  """What a `FlowPlusPlus` model is built from; `dataclasses.replace` makes variants.

  Raises:
    InputError (a ValueError): if a field has no meaning, naming field, value and what was expected.
  """
  image_shape: tuple = (32, 32, 3)
  levels: int = 256                       # pixel values 0 .. levels - 1
  structure: str = "columns:4,squeeze,channels:2,columns:3"  # see structure.py
  coupling: str = "mixture_logistic"      # or "affine" (ablation)
  components: int = 32                    # K, logistics in a mixture
  filters: int = 96                       # channels inside the conditioners
  blocks: int = 10                        # in a conditioner
  attention: bool = True                  # False: a pointwise layer of the same size (ablation)
  heads: int = 4                          # of the attention
  dropout: float = 0.0                    # rate, in every conditioner and in the context net
  invertible_conv: bool = True            # a 1x1 convolution before each coupling
  weight_norm: bool = False               # W = g V / |V| in every convolution and dense layer
  output_concat_elu: bool = False         # before the last convolution of a conditioner
  dequantization: str = "variational"     # or "uniform" (ablation)
  dequant_structure: str = "columns:4"
  dequant_filters: int = 96
  dequant_blocks: int = 2
  dequant_mixing: bool = True             # False: blocks of gated convolution and norm alone
  context_channels: int = 32
  context_blocks: int = 3
  context_layer_norm: bool = False
  context_attention: bool = False
  dtype: str = "float32"                  # or "float64"

  def __post_init__(self):
    object.__setattr__(self, "image_shape", tuple(self.image_shape))
    self._require("image_shape", len(self.image_shape) == 3 and all(
        _is_count(n) for n in self.image_shape), "three positive integers (height, width, channels)")
    self._require("levels", _is_count(self.levels) and 2 <= self.levels <= 256,
                  "an integer from 2 to 256")
    for name in ("components", "filters", "blocks", "heads", "dequant_filters", "dequant_blocks",
                 "context_channels", "context_blocks"):
      self._require(name, _is_count(getattr(self, name)), "a positive integer")
    self._require("dropout", isinstance(self.dropout, numbers.Real) and 0 <= self.dropout < 1,
                  "a number in [0, 1)")
    for name, known in (("coupling", ("mixture_logistic", "affine")),
                        ("dequantization", ("variational", "uniform")),
                        ("dtype", ("float32", "float64"))):
      self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
    widths = {"filters": self.attention}
    if self.dequantization == "variational":
      widths["dequant_filters"] = self.attention and self.dequant_mixing
      widths["context_channels"] = self.context_attention
    for name, has_heads in widths.items():
      self._require(name, not has_heads or getattr(self, name) % self.heads == 0,
                    f"a multiple of the {self.heads} heads")
    parse_structure(self.structure, self.image_shape)
    if self.dequantization == "variational":
      parse_structure(self.dequant_structure, self.image_shape)

  def _require(self, name, holds, expected):
    if not holds:
      raise InputError(f"`{name}` must be {expected}, got {getattr(self, name)!r}")


def _is_count(value):
  return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0


CONFIGS = {
    "cifar10": FlowPlusPlusConfig(dropout=0.2),
    "digits": FlowPlusPlusConfig(
        image_shape=(8, 8, 1), levels=17, filters=32, components=8, blocks=1, dropout=0.2,
        dequant_filters=32, dequant_blocks=1, context_channels=16, context_blocks=1),
    "photos": FlowPlusPlusConfig(
        filters=32, components=8, blocks=2, dropout=0.1, dequant_filters=32, dequant_blocks=1,
        context_channels=16, context_blocks=1),
}


def get_config(name):
  """The config of an experiment by name.

  Raises:
    InputError (a ValueError): if there is none, naming those that come close.
  """
  if name not in CONFIGS:
    raise unknown_name("config", name, CONFIGS)
  return CONFIGS[name]

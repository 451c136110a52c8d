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
  invertible_conv: str = "dense"          # before each coupling: "dense", "lu" (P L U) or "none"
  act_norm_min_variance: float = 0.01     # floor at initialisation; 0 as published
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
  remat: bool = False                     # gradients evaluate blocks again rather than keep what is
                                          # inside of them: the same numbers in less memory
  dtype: str = "float32"                  # or "float64", or "mixed_bfloat16" or "mixed_float16":
                                          # float32 but for the networks, which compute in them
  flow_dtype: str = ""                    # "float64": of all but the networks, whatever `dtype` says

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
    self._require("act_norm_min_variance", isinstance(self.act_norm_min_variance, numbers.Real)
                  and self.act_norm_min_variance >= 0, "a number of at least 0")
    for name, known in (("coupling", ("mixture_logistic", "affine")),
                        ("invertible_conv", ("dense", "lu", "none")),
                        ("dequantization", ("variational", "uniform")),
                        ("dtype", ("float32", "float64", "mixed_bfloat16", "mixed_float16"))):
      self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
    self._require("flow_dtype", self.flow_dtype in ("", "float64"), "float64 or empty")
    widths = {"filters": self.attention}
    if self.dequantization == "variational":
      widths["dequant_filters"] = self.attention and self.dequant_mixing
      widths["context_channels"] = self.context_attention
    for name, has_heads in widths.items():
      self._require(name, not has_heads or getattr(self, name) % self.heads == 0,
                    f"a multiple of the {self.heads} heads")
    parse_structure(self.structure, self.image_shape)
    if self.dequantization == "variational":
      stages = parse_structure(self.dequant_structure, self.image_shape, "dequant_structure")
      self._require("dequant_structure", all(s.kind == "columns" for s in stages),
                    "columns:N alone, which the context of the image fits")

  def _require(self, name, holds, expected):
    if not holds:
      raise InputError(f"`{name}` must be {expected}, got {getattr(self, name)!r}")


def _is_count(value):
  return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0


_CIFAR10 = FlowPlusPlusConfig(dropout=0.2)
_IMAGENET32 = FlowPlusPlusConfig(
    structure="columns:4,columns:3,squeeze,channels:3,columns:3", filters=128, blocks=20,
    invertible_conv="none", weight_norm=True, output_concat_elu=True,
    dequant_structure="columns:4,columns:4", dequant_filters=128, dequant_blocks=8,
    context_blocks=8, context_layer_norm=True, context_attention=True)
_IMAGENET64 = FlowPlusPlusConfig(
    image_shape=(64, 64, 3), components=4, blocks=16, invertible_conv="none", output_concat_elu=True,
    structure="squeeze,columns:4,squeeze,channels:2,columns:2,squeeze,channels:2,columns:2",
    dequant_blocks=5, dequant_mixing=False, context_blocks=5, context_layer_norm=True)

CONFIGS = {
    # Small models on bundled data.
    "digits": FlowPlusPlusConfig(
        image_shape=(8, 8, 1), levels=17, filters=48, components=8, blocks=1, dropout=0.4,
        dequant_filters=32, dequant_blocks=1, context_channels=16, context_blocks=1),
    "photos": FlowPlusPlusConfig(
        filters=32, components=8, blocks=2, dropout=0.1, dequant_filters=32, dequant_blocks=1,
        context_channels=16, context_blocks=1),
    # The published experiments.
    "cifar10": _CIFAR10,
    "imagenet32": _IMAGENET32,
    "imagenet64": _IMAGENET64,
    "imagenet64_5bit": dataclasses.replace(_IMAGENET64, levels=32),
    "celeba64_5bit": dataclasses.replace(_IMAGENET64, levels=32),
    "celeba64_3bit": dataclasses.replace(_IMAGENET64, levels=8),
    "celeba128_5bit": dataclasses.replace(
        _IMAGENET64, image_shape=(128, 128, 3), levels=32, blocks=12,
        structure=f"squeeze,{_IMAGENET64.structure}"),
    # The ablations of the paper's table 2.
    "cifar10_uniform_dequantization": dataclasses.replace(
        _CIFAR10, dequantization="uniform", filters=104),
    "cifar10_affine_coupling": dataclasses.replace(
        _CIFAR10, coupling="affine", filters=108, dequant_filters=108),
    "cifar10_no_attention": dataclasses.replace(_CIFAR10, attention=False),
}


def get_config(name):
  """The config of an experiment by name.

  Raises:
    InputError (a ValueError): if there is none, naming those that come close.
  """
  if name not in CONFIGS:
    raise unknown_name("config", name, CONFIGS)
  return CONFIGS[name]

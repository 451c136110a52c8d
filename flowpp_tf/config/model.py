"""Architecture as data: a frozen config for every experiment. Flow++ section 4 and appendix."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Union

from flowpp_tf.config.structure import context_channels, parse_structure, size_step
from flowpp_tf.core.checks import check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import COUPLINGS, unregistered
from flowpp_tf.core.settings import COUNT, FRACTION, Range, Rule, Settings, at_least, one_of, setting

_SHAPE = Range(
  lambda shape: len(shape) == 3 and all(1 <= n <= 2**16 for n in shape),
  "three positive integers (height, width, channels) of at most 65,536",
)
_COUPLING = one_of(*COUPLINGS)._replace(  # it also accepts couplings that are registered later
  holds=lambda name: name in COUPLINGS, expected=f"one of {', '.join(COUPLINGS)} (--import=MODULE registers others)"
)
_CHANNELS = at_least(0, 2**16)
MIXERS = ("attention", "pointwise", "none")
PADDINGS = ("zeros", "periodic")
REMAT = ("off", "blocks", "couplings")
_DTYPES = one_of("float32", "float64", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Settings):
  """Config of a network's blocks; see `ConvAttentionBlock`.

  Raises:
    InputError (a ValueError): if a field is invalid; the message names it.

  Examples:
    >>> fpp.layers.NetworkConfig(filters=96, blocks=10, dropout=0.2).mixer
    'attention'
  """

  filters: int = setting(dataclasses.MISSING, "Channels inside.", COUNT)
  blocks: int = setting(dataclasses.MISSING, "Number of blocks.", at_least(0, 2**16))
  mixer: str = setting(
    "attention", "Mixer of positions: attention, pointwise (the paper's ablation) or none.", one_of(*MIXERS)
  )
  heads: int = setting(4, "Heads of the attention.", COUNT)
  layer_norm: bool = setting(True, "Whether to normalise after each residual sum.")
  dropout: float = setting(0.0, "Dropout rate.", FRACTION)
  weight_norm: bool = setting(False, "As in `InitNormConv2D`.")
  remat: bool = setting(False, "Whether gradients recompute blocks rather than keep their intermediate tensors.")
  padding: str = setting(
    "zeros",
    "Padding of convolutions: zeros or periodic; periodic networks have no position embedding.",
    one_of(*PADDINGS),
  )

  @classmethod
  def from_config(cls, config: Union["NetworkConfig", Mapping[str, Any]]) -> "NetworkConfig":
    """Return a config, or the config of a mapping that Keras has serialised."""
    if isinstance(config, NetworkConfig):
      return config
    check_type("network", config, cls | Mapping)
    if unknown := {*config} - {field.name for field in dataclasses.fields(cls)}:
      raise InputError(f"`network` must have the fields of `NetworkConfig`, got {', '.join(map(repr, unknown))}")
    return cls(**config)


@dataclasses.dataclass(frozen=True)
class FlowPlusPlusConfig(Settings):
  """Config of a `FlowPlusPlus` model; `dataclasses.replace` makes variants.

  Raises:
    InputError (a ValueError): if a field is invalid; the message names field, value and what was expected.

  Examples:
    >>> import dataclasses
    >>> config = dataclasses.replace(fpp.get_config("digits"), coupling="affine", num_classes=10)
    >>> config.image_shape, config.is_conditional
    ((8, 8, 1), True)
  """

  image_shape: tuple[int, ...] = setting((32, 32, 3), "Height, width and channels of the images.", _SHAPE)
  levels: int = setting(256, "Number of pixel values, 0 .. levels - 1.", at_least(2, 2**16))
  pixel_transform: str = setting(
    "none",
    "Increasing map of the pixels before their logit: asinh stretches the dark part of images whose values have a wide "
    "range, such as 16-bit frames of the sky, and is fitted to the images that initialise the model.",
    one_of("none", "asinh"),
  )
  structure: str = setting("columns:4,squeeze,channels:2,columns:3", "Stages of the flow, see config/structure.py.")
  coupling: str = setting(
    "mixture_logistic",
    f"Transformation of a coupling, one of {', '.join(COUPLINGS)}; affine is an ablation, and rational_quadratic "
    "has a spline in place of the mixture's CDF.",
    _COUPLING,
  )
  components: int = setting(32, "K, logistics in a mixture, or bins of a spline.", COUNT)
  coupling_margin: float = setting(
    0.0,
    "m, with which a mixture's coupling is logit((1 - 2 m) F + m), F the mixture's CDF: 0 in Flow++, 0.05 in VFlow.",
    Range(lambda margin: 0 <= margin < 0.5, "in [0, 1/2)"),
  )
  filters: int = setting(96, "Channels inside the conditioners.", COUNT)
  blocks: int = setting(10, "Blocks of a conditioner.", COUNT)
  attention: bool = setting(True, "Self-attention in the blocks; off, a pointwise layer of the same size (ablation).")
  heads: int = setting(4, "Heads of the attention.", COUNT)
  dropout: float = setting(0.0, "Dropout rate, in every conditioner and in the context net.", FRACTION)
  invertible_conv: str = setting(
    "dense", "1x1 convolution before each coupling: dense, lu (P L U) or none.", one_of("dense", "lu", "none")
  )
  invertible_conv_stddev: float = setting(
    0.001, "Standard deviation of the noise around the identity with which 1x1 convolutions begin.", at_least(0, 1)
  )
  invertible_conv_init: str = setting(
    "identity",
    "Initialisation of 1x1 convolutions: identity, or whitening, by which the first one at each resolution makes the "
    "channels of each half uncorrelated, with variance 1, on the images that initialise the model.",
    one_of("identity", "whitening"),
  )
  act_norm_per_position: bool = setting(
    True,
    "Whether ActNorm has parameters per position, as in Flow++; off, per channel, as in Glow, which learns faster if "
    "all positions are alike, as in crops. On a torus they are per channel.",
  )
  act_norm_min_variance: float = setting(
    0.01, "Floor under ActNorm's variance at initialisation; 0 as published.", at_least(0)
  )
  padding: str = setting(
    "zeros",
    "Padding of the convolutions: zeros, or periodic for fields on a torus, whose density then does not change when "
    "they are rolled by whole blocks of the structure.",
    one_of(*PADDINGS),
  )
  weight_norm: bool = setting(False, "Weight normalisation, W = g V / |V|, in every convolution and dense layer.")
  output_concat_elu: bool = setting(False, "concat_elu before the last convolution of a conditioner.")
  dequantization: str = setting(
    "variational",
    "Dequantization; uniform is an ablation, and none is for real-valued images, whose density is exact.",
    one_of("variational", "uniform", "none"),
  )
  dequant_structure: str = setting("columns:4", "Stages of the dequantizer's flow.")
  dequant_filters: int = setting(96, "Channels inside the dequantizer's conditioners.", COUNT)
  dequant_blocks: int = setting(2, "Blocks of a conditioner of the dequantizer.", COUNT)
  dequant_mixing: bool = setting(True, "Attention in the dequantizer's blocks; off, only gated convolution and norm.")
  context_channels: int = setting(32, "Channels of the dequantizer's context.", COUNT)
  context_blocks: int = setting(3, "Blocks of the context net.", COUNT)
  context_layer_norm: bool = setting(False, "Layer norm in the context net.")
  context_attention: bool = setting(False, "Self-attention in the context net.")
  augment_channels: int = setting(
    0,
    "Channels added to the image to make the flow wider (VFlow); they are drawn given the image, and dropped from "
    "samples. 0 as in Flow++.",
    _CHANNELS,
  )
  augment_posterior: str = setting(
    "flow",
    "Distribution of the added channels: a conditional flow like the dequantizer's, or normal for every image.",
    one_of("flow", "normal"),
  )
  augment_end: str = setting(
    "none",
    "End of the flow of added channels: none, or sigmoid for values in (0, 1) (VFlow).",
    one_of("none", "sigmoid"),
  )
  augment_blocks: int = setting(3, "Blocks of a conditioner of the flow of added channels.", COUNT)
  num_classes: int = setting(0, "Classes of labelled images, p(image | label); 0 for a model without.", _CHANNELS)
  label_dropout: float = setting(
    0.0, "Rate at which training leaves labels out, so that the model is unconditional too, for guidance.", FRACTION
  )
  condition_shape: tuple[int, ...] = setting(
    (),
    "Height, width and channels of a condition image, p(image | image); its sides divide the image's. Empty for none.",
    Range(lambda shape: len(shape) == 0 or _SHAPE.holds(shape), f"empty or {_SHAPE.expected}"),
  )
  tile_neighbours: bool = setting(
    False,
    "Whether images are tiles of larger pictures, p(tile | left, upper and upper left neighbour); `condition_shape` "
    "follows from it.",
  )
  condition_channels: int = setting(
    16, "Channels of the context that the flow's couplings get from label and condition.", COUNT
  )
  condition_blocks: int = setting(2, "Blocks of the network that reads the condition.", COUNT)
  remat: str = setting(
    "off",
    "Rematerialization, the same numbers in less memory: gradients recompute each block "
    "(blocks), or each coupling too (couplings).",
    one_of(*REMAT),
  )
  dtype: str = setting(
    "float32", "Precision; mixed_bfloat16 and mixed_float16 are float32 outside of the networks.", _DTYPES
  )
  flow_dtype: str = setting(
    "",
    "float64 for everything except the networks, regardless of dtype; empty to follow dtype.",
    Range(lambda dtype: dtype in ("", "float64"), "float64 or empty"),
  )

  RULES = (
    Rule("augment_channels", lambda c: c.dequantization != "none", "0 for an exact density"),
    Rule("pixel_transform", lambda c: c.dequantization != "none", "none for real-valued images"),
    Rule(
      "tile_neighbours",
      lambda c: c.padding == "zeros" and c.dequantization != "none",
      "False for real-valued images and for periodic `padding`",
    ),
    Rule("invertible_conv_init", lambda c: c.invertible_conv == "dense", "identity unless `invertible_conv` is dense"),
    Rule("label_dropout", lambda c: c.num_classes > 0, "0 for a model without labels"),
    Rule("coupling_margin", lambda c: c.coupling == "mixture_logistic", "0 unless `coupling` is mixture_logistic"),
    Rule("augment_end", lambda c: c.is_augmented_by_flow, "none unless a flow draws `augment_channels`"),
  )

  def __post_init__(self):
    super().__post_init__()
    if self.tile_neighbours:
      height, width, channels = self.image_shape
      object.__setattr__(self, "condition_shape", (height, width, context_channels(channels)))  # the class is frozen
    sides = zip(self.image_shape[:2], self.condition_shape[:2])
    divides = all(image_side % side == 0 for image_side, side in sides)
    self._require(
      "condition_shape", divides, f"of a height and width that divide those of `image_shape` {self.image_shape}"
    )
    with_heads = {"filters": self.attention}
    if self.has_context_net:
      with_heads["dequant_filters"] = self.attention and self.dequant_mixing
      with_heads["context_channels"] = self.context_attention
    for name, has_heads in with_heads.items():
      is_multiple = getattr(self, name) % self.heads == 0
      self._require(name, is_multiple or not has_heads, f"a multiple of the {self.heads} heads")
    parse_structure(self.structure, self.flow_shape)
    if self.has_context_net:
      stages = parse_structure(self.dequant_structure, self.image_shape, "dequant_structure")
      only_columns = all(stage.kind == "columns" for stage in stages)
      self._require("dequant_structure", only_columns, "columns:N only, to fit the context of the image")

  # --- Configs of the parts ---------------------------------------------------------------------

  @property
  def precision(self) -> str:
    """Name of the dtype that the networks compute in."""
    return self.dtype.removeprefix("mixed_")

  @property
  def is_augmented_by_flow(self) -> bool:
    """Whether a flow draws the channels that augment the image."""
    return self.augment_channels > 0 and self.augment_posterior == "flow"

  @property
  def has_context_net(self) -> bool:
    """Whether a network reads the image for couplings of noise."""
    return self.dequantization == "variational" or self.is_augmented_by_flow

  @property
  def flow_shape(self) -> tuple[int, ...]:
    """Shape of what the flow transforms: the image, and the channels that augment it."""
    height, width, channels = self.image_shape
    return height, width, channels + self.augment_channels

  @property
  def tile_step(self) -> tuple[int, int]:
    """Rows and columns that the coded part of a tile at an edge is a multiple of; without neighbours a whole tile."""
    if self.tile_neighbours:
      return self.size_step
    return self.image_shape[0], self.image_shape[1]

  @property
  def size_step(self) -> tuple[int, int]:
    """Rows and columns that an image's size must be a multiple of, so that the structures can split it."""
    flows = [parse_structure(self.structure, self.flow_shape)]
    if self.has_context_net:  # which reads pairs of columns, as a stage "columns" does
      for structure in ("columns:1", self.dequant_structure):
        flows.append(parse_structure(structure, self.image_shape))
    return size_step([[stage.kind for stage in stages] for stages in flows])

  @property
  def flow_couplings(self) -> "CouplingConfig":
    """Config of the flow's coupling steps."""
    network = self._network(self.filters, self.blocks, self._mixer)
    context_channels = self.condition_channels if self.is_conditional else 0
    # Only this flow can begin by whitening: the others transform noise, whose channels are uncorrelated.
    return CouplingConfig(self, network, context_channels, whitening=self.invertible_conv_init == "whitening")

  @property
  def dequantizer_couplings(self) -> "CouplingConfig":
    """Config of the dequantizer's coupling steps."""
    return self._couplings_of_noise(self.dequant_blocks)

  @property
  def augmenter_couplings(self) -> "CouplingConfig":
    """Config of the coupling steps of the flow that draws the augmented channels."""
    return self._couplings_of_noise(self.augment_blocks)

  @property
  def context_network(self) -> NetworkConfig:
    """Config of the network that reads the images, for the dequantizer and for the augmented channels."""
    mixer = "attention" if self.context_attention else "none"
    return self._network(self.context_channels, self.context_blocks, mixer, self.context_layer_norm)

  @property
  def condition_network(self) -> NetworkConfig:
    """Config of the network that reads the condition."""
    return self._network(self.condition_channels, self.condition_blocks, "none", False)

  @property
  def pixel_levels(self) -> int | None:
    """Number of pixel values; None for real-valued images."""
    return None if self.dequantization == "none" else self.levels

  @property
  def is_conditional(self) -> bool:
    """Whether images are given a label or a condition."""
    return bool(self.num_classes or self.condition_shape)

  @property
  def act_norm_of_positions(self) -> bool:
    """Whether positions have ActNorm parameters of their own; on a torus all positions are alike."""
    return self.act_norm_per_position and self.padding == "zeros"

  @property
  def _mixer(self):
    return "attention" if self.attention else "pointwise"

  def _network(self, filters, blocks, mixer, layer_norm=True):
    remat = self.remat != "off"
    return NetworkConfig(
      filters, blocks, mixer, self.heads, layer_norm, self.dropout, self.weight_norm, remat, self.padding
    )

  def _couplings_of_noise(self, blocks):
    mixer = self._mixer if self.dequant_mixing else "none"
    network = self._network(self.dequant_filters, blocks, mixer)
    return CouplingConfig(self, network, self.context_channels)


@dataclasses.dataclass(frozen=True)
class CouplingConfig:
  """Config of the coupling steps of one flow of a model, except for their shape.

  Attributes:
    model: config of the model, whose settings of couplings, ActNorm and 1x1 convolutions hold for all of its flows.
    network: config of the conditioners' networks.
    context_channels: channels of the context that the conditioners read; 0 for none.
    whitening: whether the first 1x1 convolution at each resolution begins by whitening.

  Examples:
    >>> couplings = fpp.get_config("digits").dequantizer_couplings
    >>> couplings.model.coupling, couplings.network.filters
    ('mixture_logistic', 32)
  """

  model: FlowPlusPlusConfig
  network: NetworkConfig
  context_channels: int
  whitening: bool = False


_CIFAR10 = FlowPlusPlusConfig(dropout=0.2)
_IMAGENET32 = FlowPlusPlusConfig(
  structure="columns:4,columns:3,squeeze,channels:3,columns:3",
  filters=128,
  blocks=20,
  invertible_conv="none",
  weight_norm=True,
  output_concat_elu=True,
  dequant_structure="columns:4,columns:4",
  dequant_filters=128,
  dequant_blocks=8,
  context_blocks=8,
  context_layer_norm=True,
  context_attention=True,
)
_IMAGENET64 = FlowPlusPlusConfig(
  image_shape=(64, 64, 3),
  components=4,
  blocks=16,
  invertible_conv="none",
  output_concat_elu=True,
  structure="squeeze,columns:4,squeeze,channels:2,columns:2,squeeze,channels:2,columns:2",
  dequant_blocks=5,
  dequant_mixing=False,
  context_blocks=5,
  context_layer_norm=True,
)

# For a few CPU cores.
_LIGHT = FlowPlusPlusConfig(dequant_filters=32, dequant_blocks=1, context_channels=16, context_blocks=1)
# Without attention, and with most couplings after a squeeze: the best density that a small budget of time allows.
_SMALL = dataclasses.replace(_LIGHT, blocks=2, attention=False, dequant_structure="columns:2")
_DIGITS = dataclasses.replace(_LIGHT, image_shape=(8, 8, 1), levels=17, filters=48, components=8, blocks=1, dropout=0.4)
_FASHION_MNIST = dataclasses.replace(
  _SMALL, image_shape=(28, 28, 1), filters=64, components=8, structure="squeeze,channels:3,columns:3,squeeze,channels:3"
)

CONFIGS = {
  # Small models on bundled data.
  "digits": _DIGITS,
  "digits_by_class": dataclasses.replace(_DIGITS, num_classes=10, label_dropout=0.1, condition_channels=32),
  "photos": dataclasses.replace(_LIGHT, filters=32, components=8, blocks=2, dropout=0.1),
  "photos_crops": dataclasses.replace(
    _SMALL, filters=56, components=5, structure="squeeze,channels:3,columns:3,squeeze,channels:2"
  ),
  "fashion_mnist": _FASHION_MNIST,
  # Noise of many levels needs no learned dequantization.
  "sky16": dataclasses.replace(
    _SMALL,
    image_shape=(32, 32, 1),
    levels=65536,
    pixel_transform="asinh",
    dequantization="uniform",
    filters=32,
    components=4,
    structure="squeeze,channels:3,columns:3,squeeze,channels:2",
  ),
  # Real-valued fields on a torus, with an exact density.
  "random_field": FlowPlusPlusConfig(
    image_shape=(32, 32, 1),
    dequantization="none",
    padding="periodic",
    structure="columns:2,squeeze,channels:2,columns:2,squeeze,channels:4",
    coupling="affine",
    filters=16,
    blocks=1,
    attention=False,
  ),
  # Tiles of pictures of 300x300.
  "elpv": dataclasses.replace(
    _FASHION_MNIST,
    image_shape=(60, 60, 1),
    tile_neighbours=True,
    invertible_conv_init="whitening",
    act_norm_per_position=False,
  ),
  # The published experiments.
  "cifar10": _CIFAR10,
  "imagenet32": _IMAGENET32,
  "imagenet64": _IMAGENET64,
  # The same models on the new downsampled ImageNet, which has other images.
  "imagenet32_new": _IMAGENET32,
  "imagenet64_new": _IMAGENET64,
  "imagenet64_5bit": dataclasses.replace(_IMAGENET64, levels=32),
  "celeba64_5bit": dataclasses.replace(_IMAGENET64, levels=32),
  "celeba64_3bit": dataclasses.replace(_IMAGENET64, levels=8),
  "celeba128_5bit": dataclasses.replace(
    _IMAGENET64, image_shape=(128, 128, 3), levels=32, blocks=12, structure=f"squeeze,{_IMAGENET64.structure}"
  ),
  # VFlow (Chen et al. 2020): denser by channels that augment the image.
  "cifar10_vflow": dataclasses.replace(
    _CIFAR10,
    augment_channels=3,
    augment_end="sigmoid",
    coupling_margin=0.05,
    invertible_conv_stddev=0.01,
    structure="columns:2,channels:2,squeeze,columns:2,channels:3",
  ),
  # The ablations of the paper's table 2, and the full model that they are compared with.
  "cifar10_400_epochs": _CIFAR10,
  "cifar10_uniform_dequantization": dataclasses.replace(_CIFAR10, dequantization="uniform", filters=104),
  "cifar10_affine_coupling": dataclasses.replace(_CIFAR10, coupling="affine", filters=108, dequant_filters=108),
  "cifar10_no_attention": dataclasses.replace(_CIFAR10, attention=False),
}


def get_config(name: str) -> FlowPlusPlusConfig:
  """Return the config of an experiment by name.

  Raises:
    InputError (a ValueError): for an unknown name; the message suggests close ones.

  Examples:
    >>> fpp.get_config("cifar10").structure
    'columns:4,squeeze,channels:2,columns:3'
  """
  check_type("name", name, str)
  if name not in CONFIGS:
    raise unregistered("config", name, CONFIGS)
  return CONFIGS[name]

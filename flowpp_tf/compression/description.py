"""A model as the codec sees it: a description of its parts in JSON, and its weights as arrays.

It holds what a decoder needs as NumPy arrays, so that an archive can be decoded without TensorFlow. Its hash says
whether two machines have the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any
import zipfile

import numpy as np

from flowpp_tf.compression import portable_math
from flowpp_tf.compression.maps import COUPLING_MAPS
from flowpp_tf.config.structure import size_step
from flowpp_tf.core.checks import check_arguments, check_count, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.budget import BudgetError, claim
from flowpp_tf.types import Path

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlus

_DESCRIPTION = "description"
_LAYERS = ("input_conv", "output_conv", "conv", "context_projection", "input_projection", "output_projection")
# What NumPy, zipfile and json raise for bytes that are not of a model.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class CodecModel:
  """A Flow++ model without TensorFlow.

  Attributes:
    description: `image_shape`, `levels`, `alpha`; `transform` of the pixels if there is one: `kind`, `offset`, `scale`;
      `flow`, a flow; `dequantizer` and `augmenter`, each None or a dict of `flow`, `context` and, of the augmenter,
      `channels` and, if it has one, `end`; `condition`, the network that reads the neighbours of a tile, if the model
      sees them. A flow is a dict of `stages`, `[kind, couplings]` each;
      `coupling`, `components`, `invertible_conv`; `margin` if it has one; and `network`.
    weights: float32 arrays by name.
    embedded: how many bytes it takes in the archive that it came with, or None: a `Codec` claims its memory as what
      comes out of these, since few weights can describe attention over thousands of positions.

  Examples:
    >>> codec = fpp.compression.Codec(fpp.FlowPlusPlus.from_preset("digits"))
    >>> codec.model.image_shape, codec.model.levels
    ((8, 8, 1), 17)
  """

  description: Mapping[str, Any]
  weights: Mapping[str, np.ndarray]
  embedded: int | None = None

  def __post_init__(self) -> None:
    check_type("description", self.description, Mapping)
    check_type("weights", self.weights, Mapping)
    if self.embedded is not None:
      check_count("embedded", self.embedded, high=2**48)
    for name, value in self.weights.items():
      dtype = np.asarray(value).dtype
      if (dtype.kind, dtype.itemsize) != ("f", 4):  # others would be rounded in the hash and in an archive
        raise InputError(f"the weights of the model must be float32, got {dtype} in {name}")
      if not np.all(np.isfinite(value)):
        raise InputError(f"the weights of the model must be finite, got NaN or infinity in {name}")

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Shape `(H, W, C)` of the images."""
    height, width, channels = self.description["image_shape"]
    return height, width, channels

  @property
  def num_dims(self) -> int:
    """Number of values that the flow transforms: an image and its augmented channels."""
    height, width, channels = self.image_shape
    augmenter = self.description["augmenter"]
    return height * width * (channels + (augmenter["channels"] if augmenter else 0))

  def flows(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the name of the weights and the description of each part that has a flow."""
    inner = {part: (self.description[part] or {}).get("flow") for part in ("dequantizer", "augmenter")}
    return {
      "flow": ("flow", self.description["flow"]),
      **{part: (f"{part}/flow", flow) for part, flow in inner.items() if flow is not None},
    }

  @property
  def levels(self) -> int:
    """Number of pixel values."""
    return self.description["levels"]

  @property
  def sees_neighbours(self) -> bool:
    """Whether an image is a tile that is coded given its neighbours."""
    return "condition" in self.description

  @property
  def tile_step(self) -> tuple[int, int]:
    """Unit of rows and columns of the coded part of a tile at an edge; without neighbours, a whole tile."""
    height, width, _ = self.image_shape
    if not self.sees_neighbours:
      return height, width
    inner = ["columns"] if len(self.flows()) > 1 else []  # a context net reads pairs of columns
    kinds = [[kind for kind, _ in flow["stages"]] for _, flow in self.flows().values()]
    return size_step([inner, *kinds])

  def sha256(self) -> str:
    """Return the hash of description and weights as hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode())
    for name in sorted(self.weights):
      value = self.weights[name]
      digest.update(f"\n{name} {list(value.shape)}\n".encode())
      digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()

  def to_bytes(self) -> bytes:
    """Return the model as the bytes of an .npz file; weights that float16 represents exactly take half the space."""
    text = json.dumps(self.description, sort_keys=True).encode()
    arrays: dict[str, Any] = {_DESCRIPTION: np.frombuffer(text, np.uint8)}
    for name, value in self.weights.items():
      with np.errstate(over="ignore"):
        half = value.astype(np.float16)
      arrays[name] = half if np.array_equal(half.astype(np.float32), value) else value
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()

  @classmethod
  @check_arguments
  def from_bytes(cls, data: bytes, name: str = "codec model") -> CodecModel:
    """Return the model of `to_bytes`.

    Raises:
      InputError (a ValueError): if the bytes are not a model.
    """
    claim("memory", 3 * len(data), name)
    try:
      with gate.open_zip(io.BytesIO(data)) as members:
        if sum(member.file_size for member in members.infolist()) > len(data):
          raise ValueError("it would take more memory than it has bytes")
        for member in members.infolist():
          if member.compress_type != zipfile.ZIP_STORED:  # LZMA takes memory by what its header says
            raise ValueError(f"its array {member.filename!r} is compressed, which no model's is")
          with members.open(member) as file:
            gate.check_npy_header(file, member.file_size)
      with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        weights = {key: arrays[key].astype(np.float32) for key in arrays.files if key != _DESCRIPTION}
        description = gate.parse_json(arrays[_DESCRIPTION].tobytes().decode())
    except BudgetError:
      raise
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
      raise InputError(f"{name} cannot be read: {error}") from None
    return cls(description, weights)

  @classmethod
  @check_arguments
  def load(cls, path: Path) -> CodecModel:
    """Read the model from a file; errors as for `from_bytes`."""
    with gate.reading(path):
      data = gate.read_bytes(path, 1 << 32)
    return cls.from_bytes(data, repr(str(path)))

  @classmethod
  @check_arguments
  def from_model(cls, model: FlowPlusPlus) -> CodecModel:
    """Return the codec's view of a `FlowPlusPlus` model.

    Raises:
      InputError (a ValueError): for a model of images given a label or a condition, which archives do not hold (except
        the neighbours of a tile), or with a kind of coupling that the codec does not have.
    """
    from flowpp_tf.config.structure import parse_structure

    config = model.config
    if config.num_classes or (config.condition_shape and not config.tile_neighbours):
      raise InputError("a model of images given a label or a condition cannot compress: archives hold images only")
    if model.has_exact_density:
      raise InputError("a model of real-valued images cannot compress: an archive holds integers")
    if config.padding != "zeros":
      raise InputError(f"a model with `padding` {config.padding} cannot compress: the codec's networks pad by zeros")
    if config.coupling not in COUPLING_MAPS:
      raise InputError(
        f"a model with `coupling` {config.coupling} cannot compress: compression/maps.py has "
        f"{' and '.join(COUPLING_MAPS)}"
      )
    weights: dict[str, np.ndarray] = {}
    description: dict[str, Any] = {
      "image_shape": list(config.image_shape),
      "levels": config.levels,
      "alpha": model.pixels_to_logit.alpha,
      "flow": _describe_flow(
        model.coupling_flow,
        "flow",
        parse_structure(config.structure, config.flow_shape),
        config.flow_couplings,
        weights,
      ),
      "dequantizer": None,
      "augmenter": None,
    }
    if config.tile_neighbours:
      _collect(model.condition_net, "condition", weights)
      description["condition"] = _describe_network(config.condition_network, context=False)
    if model.pixel_transform is not None:  # only then: the hash of all other models stays what it was
      description["transform"] = model.pixel_transform.describe()
    couplings = {"dequantizer": config.dequantization == "variational" and config.dequantizer_couplings}
    if config.augment_channels:
      description["augmenter"] = {"channels": config.augment_channels, "flow": None, "context": None}
      if config.augment_end != "none":
        description["augmenter"]["end"] = config.augment_end
      couplings["augmenter"] = config.augment_posterior == "flow" and config.augmenter_couplings
    for name in filter(couplings.get, couplings):
      part = getattr(model, name)
      stages = parse_structure(config.dequant_structure, part.event_shape)
      flow = _describe_flow(part.coupling_flow, f"{name}/flow", stages, couplings[name], weights)
      _collect(part.context_net, f"{name}/context", weights)
      context = _describe_network(part.context_net.network, context=False, levels=part.context_net.levels)
      description[name] = {**(description[name] or {}), "flow": flow, "context": context}
    return cls(description, weights)


def below(weights: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """Return the weights whose names begin with `name/`, without it."""
  prefix = f"{name}/"
  return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _describe_flow(coupling_flow, name, stages, couplings, weights):
  """Return the description of a flow, and add its weights."""
  for i, step in enumerate(coupling_flow.steps):
    prefix = f"{name}/{i}"
    weights[f"{prefix}/scale"] = _array(step.scale)
    weights[f"{prefix}/bias"] = _array(step.bias)
    if step.kernel is not None:
      kernel = _array(step.kernel)
      weights[f"{prefix}/kernel"] = kernel if couplings.model.invertible_conv == "dense" else _from_triangles(kernel)
    _collect(step.conditioner, f"{prefix}/network", weights)
  return {
    # Only of a flow that has one: the hash of all other models stays what it was.
    **({"margin": couplings.model.coupling_margin} if couplings.model.coupling_margin else {}),
    "stages": [[stage.kind, stage.couplings] for stage in stages],
    "coupling": couplings.model.coupling,
    "components": couplings.model.components,
    "invertible_conv": couplings.model.invertible_conv != "none",
    "network": _describe_network(
      couplings.network, context=couplings.context_channels > 0, output_concat_elu=couplings.model.output_concat_elu
    ),
  }


def _describe_network(network, **more):
  return {name: getattr(network, name) for name in ("blocks", "mixer", "heads", "layer_norm")} | more


def _collect(network, name, weights):
  """Add a network's weights, by the names of its layers."""
  for i, block in enumerate(network.blocks):
    for norm in ("conv_norm", "mixer_norm"):
      if (layer := getattr(block, norm)) is not None:
        weights[f"{name}/block_{i}/{norm}/gamma"] = _array(layer.gamma)
        weights[f"{name}/block_{i}/{norm}/beta"] = _array(layer.beta)
  for layer_name, layer in _layers(network):
    kernel = _array(layer.kernel)
    weights[f"{name}/{layer_name}/kernel"] = _normalized(kernel, _array(layer.gain)) if layer.weight_norm else kernel
    weights[f"{name}/{layer_name}/bias"] = _array(layer.bias)
  if getattr(network, "position_embedding", None) is not None and network.network.mixer != "none":
    weights[f"{name}/position_embedding"] = _array(network.position_embedding)


def _layers(network):
  """Yield a network's convolutions and dense layers, each with its name."""
  owners = {"": network}
  for i, block in enumerate(network.blocks):
    owners |= {f"block_{i}/{part.name}/": part for part in (block.conv, block.mixer) if part is not None}
  for prefix, owner in owners.items():
    for name in _LAYERS:
      if getattr(owner, name, None) is not None:
        yield f"{prefix}{name}", getattr(owner, name)


def _array(variable):
  return np.asarray(variable, np.float32)


def _normalized(kernel, gain):
  """Return g V / |V|; the squares are summed as integers, which is exact in any order."""
  wide = kernel.astype(np.float64)
  squares = np.rint(wide * wide * 2.0**36)
  total = squares.reshape(-1, kernel.shape[-1]).sum(axis=0) * 2.0**-36
  factor = gain / np.sqrt(np.maximum(total, 1e-12))
  return (wide * factor).astype(np.float32)


def _from_triangles(lower_upper):
  """Return the matrices L U of the "lu" form, `[2, C, C]`, as in `Invertible1x1ConvLU`."""
  wide = lower_upper.astype(np.float64)
  size = wide.shape[-1]
  identity = np.eye(size)
  lower = np.tril(wide, -1) + identity
  diagonal = portable_math.exp(np.diagonal(wide, axis1=1, axis2=2))
  upper = np.triu(wide, 1) + diagonal[:, :, None] * identity
  products = lower[:, :, :, None] * upper[:, None]
  return portable_math.total(products, axis=2).astype(np.float32)

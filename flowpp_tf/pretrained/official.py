"""Load and export weights of the published releases, an `.npz` keyed by its TF1 variable names.

The release numbers the calls of each class (`Norm`, `Norm_1`, ...), dequantizer first. It stores the two halves of a
step's ActNorm and 1x1 convolution as separate variables. VFlow's release has the same classes; its posterior of the
augmented channels comes between the dequantizer and the flow.
"""

import collections
import io
from typing import Any, NamedTuple

import numpy as np

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import write_file
from flowpp_tf.io.gate import read_npz
from flowpp_tf.pretrained.stored_config import FlowPlusPlusLike
from flowpp_tf.types import Path

# The architectures that have a release, by the values of config fields: Flow++, and VFlow with augmented channels.
_FLOW = {
  "invertible_conv": ("dense", "none"),
  "padding": ("zeros",),
  "coupling": ("mixture_logistic", "affine"),
  "coupling_margin": (0.0,),
}
_VFLOW = {
  **_FLOW,
  "coupling": ("mixture_logistic",),
  "coupling_margin": (0.05,),
  "augment_posterior": ("flow",),
  "augment_end": ("sigmoid",),
  "output_concat_elu": (False,),
  "context_layer_norm": (False,),
  "context_attention": (False,),
}


class Entry(NamedTuple):
  """An array of the release: `variable[index]` reshaped to `shape`."""

  name: str
  variable: Any
  index: Any
  shape: tuple[int, ...]


@check_arguments
def load_official_weights(model: FlowPlusPlusLike, path: Path) -> None:
  """Set every weight of a model from an `.npz` of the release.

  Args:
    model: model of the config that the weights were trained with, of Flow++ or of VFlow.
    path: `.npz` file. Every array must be used once and every weight set once.

  Raises:
    InputError (a ValueError): if the file cannot be read, or with a list of the arrays that are missing, unexpected or
      of the wrong shape. The model is then unchanged.

  Examples:
    >>> model = fpp.FlowPlusPlus(fpp.get_config("digits"))
    >>> fpp.export_official_weights(model, "weights.npz")
    >>> fpp.load_official_weights(model, "weights.npz")
  """
  arrays = read_npz(path)
  entries = {entry.name: entry for entry in official_entries(model)}
  expected = {name: entry.shape for name, entry in entries.items()}
  found = {name: array.shape for name, array in arrays.items()}
  wrong = [
    f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
    for name in {**expected, **found}
    if found.get(name) != expected.get(name)
  ]
  if wrong:
    raise InputError(f"{str(path)!r} does not fit the model, {len(wrong)} arrays: {'; '.join(wrong)}")
  for entry in entries.values():
    value = np.array(entry.variable)
    value[entry.index] = arrays[entry.name].reshape(value[entry.index].shape)
    entry.variable.assign(value)
  model.initialized = True


@check_arguments
def export_official_weights(model: FlowPlusPlusLike, path: Path) -> None:
  """Write every weight of a model to an `.npz` with the names and shapes of the release.

  Raises:
    InputError (a ValueError): if the release has no such architecture.
    OSError: if the file cannot be written; an existing file then stays as it is.

  Examples:
    >>> model = fpp.FlowPlusPlus(fpp.get_config("digits"))
    >>> fpp.export_official_weights(model, "weights.npz")
  """
  arrays = {}
  for entry in official_entries(model):
    values = np.asarray(entry.variable)[entry.index]
    arrays[entry.name] = values.reshape(entry.shape)
  content = io.BytesIO()  # to a path without .npz, np.savez would append it
  np.savez(content, **arrays)
  write_file(path, content.getvalue())


def official_entries(model: FlowPlusPlusLike) -> list[Entry]:
  """Return the release's arrays for a model, in order of creation; raise an `InputError` for other architectures."""
  config = model.config
  augmented = bool(config.augment_channels)
  supported = _VFLOW if augmented else _FLOW
  for name, values in supported.items():
    if (value := getattr(config, name)) not in values:
      release = f"the release {'with' if augmented else 'without'} `augment_channels`"
      raise InputError(f"{release} has no weights for `{name}` {value}; use {' or '.join(map(str, values))}")
  entries = list(_Names(config).model(model))
  named = {id(entry.variable) for entry in entries}
  others = [variable.path for variable in model.weights if id(variable) not in named]
  if others:
    raise InputError(f"the release has no names for {len(others)} weights of the model, the first {others[0]}")
  return entries


class _Names:
  """Yields the entries of a model; `config` chooses between the release's two naming schemes."""

  def __init__(self, config):
    self._config = config
    self._cifar = not config.output_concat_elu
    self._calls: collections.Counter[str] = collections.Counter()

  def model(self, model):
    if self._config.dequantization == "variational":
      yield from self._context(model.dequantizer.context_net)
      yield from self._steps(model.dequantizer.coupling_flow, self._config.dequant_mixing)
    if self._config.augment_channels:
      yield from self._context(model.augmenter.context_net, proj="proj_q", block="q_c")
      yield from self._steps(model.augmenter.coupling_flow, self._config.dequant_mixing)
    yield from self._steps(model.coupling_flow, True)

  def _steps(self, flow, mixing):
    attention = self._config.attention and mixing
    coupling = {
      "affine": "AffineAttnCoupling",
      "mixture_logistic": "MixLogisticAttnCoupling" if attention else "MixLogisticCoupling",
    }[self._config.coupling]
    for step in flow.steps:
      norm = self._numbered("Norm")
      half = step.scale.shape[-1] // 2
      halves = np.s_[..., :half], np.s_[..., half:]
      for i, index in enumerate(halves):
        for name, variable in (("g", step.scale), ("b", step.bias)):
          yield Entry(f"{norm}/norm{i}/{name}", variable, index, (*variable.shape[:-1], half))
      if step.kernel is not None:
        pointwise = self._numbered("Pointwise")
        for i in range(2):
          yield Entry(f"{pointwise}/W{i}", step.kernel, i, tuple(step.kernel.shape[1:]))
      yield from self._conditioner(self._numbered(coupling), step.conditioner)

  def _numbered(self, name):
    count = self._calls[name]
    self._calls[name] += 1
    return f"{name}_{count}" if count else name

  def _conditioner(self, scope, conditioner):
    yield self._whole(f"{scope}/pos_emb", conditioner.position_embedding)
    ends = ("proj_in", "proj_out") if self._cifar else ("c1", "c2")
    yield from self._linear(f"{scope}/{ends[0]}", conditioner.input_conv)
    for i, block in enumerate(conditioner.blocks):
      prefix = f"{scope}/block{i}"
      yield from self._block(block, f"{prefix}/conv", f"{prefix}/ln1", f"{prefix}/attn", f"{prefix}/ln2")
    yield from self._linear(f"{scope}/{ends[1]}", conditioner.output_conv)

  def _context(self, net, proj="proj", block="c"):
    scope = self._numbered("context_proc")
    yield from self._linear(f"{scope}/{proj}", net.input_conv)
    if net.position_embedding is not None:
      yield self._whole(f"{scope}/pos_emb_dq", net.position_embedding)
    for i, layers in enumerate(net.blocks):
      parts = (f"{block}{i}", f"dqln{i}", f"dqattn{i}", f"ln{i}")
      yield from self._block(layers, *(f"{scope}/{part}" for part in parts))

  def _block(self, block, conv, conv_norm, mixer, mixer_norm):
    yield from self._linear(f"{conv}/c1", block.conv.conv)
    if block.conv.use_context:
      yield from self._linear(f"{conv}/a_proj", block.conv.context_projection)
    yield from self._linear(f"{conv}/c2", block.conv.output_projection)
    yield from self._norm(conv_norm, block.conv_norm)
    if block.mixer is not None:
      yield from self._linear(f"{mixer}/proj1", block.mixer.input_projection)
      yield from self._linear(f"{mixer}/proj2", block.mixer.output_projection)
    yield from self._norm(mixer_norm, block.mixer_norm)

  def _norm(self, scope, norm):
    if norm is not None:
      for name, variable in (("g", norm.gamma), ("b", norm.beta)):
        shape = tuple(variable.shape)
        if self._cifar:
          shape = (1, 1, 1, *shape)
        yield Entry(f"{scope}/{name}", variable, (), shape)

  def _linear(self, scope, layer):
    yield self._whole(f"{scope}/{'V' if layer.weight_norm else 'W'}", layer.kernel)
    if layer.weight_norm:
      yield self._whole(f"{scope}/g", layer.gain)
    yield self._whole(f"{scope}/b", layer.bias)

  def _whole(self, name, variable):
    return Entry(name, variable, (), tuple(variable.shape))

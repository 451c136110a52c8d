"""Flow++ (Ho et al. 2019) on TensorFlow, Keras and TensorFlow Probability."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import wrapt

from flowpp_tf.version import __version__

if TYPE_CHECKING:
  from flowpp_tf import bijectors, compression, distributions, exporting, layers, models
  from flowpp_tf.bijectors import register_coupling
  from flowpp_tf.compression import compress, decompress
  from flowpp_tf.config import CONFIGS, FlowPlusPlusConfig, Recipe, get_config, recipes, register_config
  from flowpp_tf.core.errors import InputError
  from flowpp_tf.data import register_dataset
  from flowpp_tf.evaluation import bit_maps, conformal_p_value
  from flowpp_tf.exporting import export, export_official_weights, load_official_weights, load_saved_model
  from flowpp_tf.models import FlowPlusPlus, VectorFlow, image_flow, presets, vector_flow, vector_flow_for
  from flowpp_tf.posterior import support
  from flowpp_tf.posterior.calibration import Calibration, calibration
  from flowpp_tf.posterior.conditional import ensemble
  from flowpp_tf.posterior.flow_files import save
  from flowpp_tf.training.fit import fit
  from flowpp_tf.training.train_model import load, train

# Imported when they are used, so that what needs no TensorFlow, such as decoding an archive, runs without it.
_MODULES = {"bijectors", "compression", "distributions", "exporting", "layers", "models"}
_NAMES = {
  "bijectors": ("register_coupling",),
  "compression": ("compress", "decompress"),
  "config": ("CONFIGS", "FlowPlusPlusConfig", "Recipe", "get_config", "recipes", "register_config"),
  "core.errors": ("InputError",),
  "data": ("register_dataset",),
  "evaluation": ("bit_maps", "conformal_p_value"),
  "exporting": ("export", "export_official_weights", "load_official_weights", "load_saved_model"),
  "models": ("FlowPlusPlus", "VectorFlow", "image_flow", "presets", "vector_flow", "vector_flow_for"),
  "posterior": ("support",),
  "posterior.calibration": ("Calibration", "calibration"),
  "posterior.conditional": ("ensemble",),
  "posterior.flow_files": ("save",),
  "training.fit": ("fit",),
  "training.train_model": ("load", "train"),
}
# Classes that Keras files may name, by their modules.
_KERAS = {
  "layers": (
    *("Conditioner", "ConditionNet", "ContextNet", "ConvAttentionBlock", "DenseConditioner", "Dropout", "Flow"),
    *("GatedAttention", "GatedConv", "GatedPointwise", "InitNormConv2D", "InitNormDense", "LabelEmbedding"),
  ),
  "models": ("FlowPlusPlus", "VectorFlow"),
  "training": ("Adam", "PiecewiseSchedule"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  if name in _MODULE_OF:
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _LazyClass:
  """Stand in Keras' registry for a class of the package, and import it when Keras reads a file that has it."""

  def __init__(self, module: str, name: str) -> None:
    self._path = f"{__name__}.{module}:{name}"

  def from_config(self, config: dict[str, Any]) -> Any:
    return pkgutil.resolve_name(self._path).from_config(config)


def _register(keras: Any) -> None:
  """Let Keras read its files after `import flowpp_tf` only."""
  classes = {f"{__name__}>{name}": _LazyClass(module, name) for module, names in _KERAS.items() for name in names}
  registry = keras.saving.get_custom_objects()
  registry.update({name: lazy for name, lazy in classes.items() if name not in registry})


wrapt.register_post_import_hook(_register, "keras")  # when something imports Keras, or now


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})

"""Flow++ (Ho et al. 2019) on TensorFlow, Keras and TensorFlow Probability."""

import importlib
from typing import TYPE_CHECKING, Any

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
  "training.fit": ("fit",),
  "training.train_model": ("load", "train"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  if name in _MODULE_OF:
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})

"""The variants of an ablation at equal parameters, as recipes: table 2 of the paper, and a spline coupling.

The paper widens what an ablation makes smaller: 108 filters for affine couplings and 104 for uniform dequantization,
rather than 96. `matched_width` finds these, and those of the reduced models here.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from flowpp_tf.config import FlowPlusPlusConfig, Recipe
from flowpp_tf.config.size import model_size
from flowpp_tf.core.errors import unknown_name


class Variant(NamedTuple):
  """What a variant changes, and what the paper found.

  Attributes:
    title: name in tables and plots.
    changes: fields of `FlowPlusPlusConfig`.
    paper: bits/dim of CIFAR-10 after 400 epochs in the paper's table 2; None for what it has not.
  """

  title: str
  changes: Mapping[str, Any]
  paper: float | None


class Base(NamedTuple):
  """The full model of a data set, as a config and the settings that replace those of its recipe."""

  config: str
  settings: Mapping[str, Any]


VARIANTS = {
  "full": Variant("Flow++", {}, 3.165),
  "affine_coupling": Variant("affine coupling", {"coupling": "affine"}, 3.200),
  "uniform_dequantization": Variant("uniform dequantization", {"dequantization": "uniform"}, 3.292),
  "no_attention": Variant("no attention", {"attention": False}, 3.193),
  "spline_coupling": Variant("rational quadratic coupling", {"coupling": "rational_quadratic"}, None),
}

# Rates are constant after the warm-up, as the paper's, so that a run can be read at any step. Widths are those at which
# the variants come within 1 % of the full model's parameters.
_REDUCED = {
  "attention": True,
  "structure": "squeeze,channels:2,columns:2",
  "components": 8,
  "precision": "float32",  # bfloat16 is slow on cores without AMX
  "num_samples": 1,
}
_FASHION_MNIST = {
  **_REDUCED,
  "filters": 48,
  "dequant_filters": 48,
  "batch_size": 8,
  "schedule": "linear:3e-3@300,hold",
  "steps": 4000,
  "validate_every": 400,
  "eval_images": 2000,
}
_PHOTOS = {
  **_REDUCED,
  "filters": 44,
  "dequant_filters": 44,
  "schedule": "linear:3e-3@200,hold",
  "steps": 2500,
  "validate_every": 250,
}
BASES = {
  "digits": Base("digits", {"dequant_filters": 40, "steps": 1500, "num_samples": 1}),
  "fashion_mnist": Base("fashion_mnist", _FASHION_MNIST),
  "photos": Base("photos_crops", _PHOTOS),
  "cifar10": Base("cifar10_400_epochs", {"num_samples": 1}),
}


def settings_of(data: str, variant: str) -> tuple[str, dict[str, Any]]:
  """Return the config of a variant's run, and the settings that replace those of its recipe.

  Raises:
    InputError (a ValueError): if there is no such data set or variant.

  Examples:
    >>> from flowpp_tf.reproduction import settings_of
    >>> settings_of("cifar10", "affine_coupling")[1]["filters"]
    108
  """
  if data not in BASES:
    raise unknown_name("data", data, BASES)
  if variant not in VARIANTS:
    raise unknown_name("variant", variant, VARIANTS)
  base, changes = BASES[data], VARIANTS[variant].changes
  full = Recipe.load(base.config).replace(**base.settings).config
  return base.config, {**base.settings, **changes, **matched_width(full, changes)}


def matched_width(full: FlowPlusPlusConfig, changes: Mapping[str, Any]) -> dict[str, int]:
  """Return the filters with which a changed model comes closest to the number of parameters of the full one.

  Args:
    full: config of the full model.
    changes: fields of it that the variant changes.

  Returns:
    `filters`, and `dequant_filters` of a model with a dequantizer: multiples of the heads, both wider by about the same
    factor. `{}` if the change alone has the same number of parameters.

  Examples:
    >>> from flowpp_tf.reproduction import matched_width
    >>> matched_width(fpp.get_config("cifar10"), {"dequantization": "uniform"})
    {'filters': 104}
  """
  wanted, changed = model_size(full).parameters, dataclasses.replace(full, **changes)
  if model_size(changed).parameters == wanted:
    return {}
  widths = []
  for filters in range(full.heads, 4 * full.filters, full.heads):
    widths.append({"filters": filters})
    if changed.dequantization == "variational":
      near = filters * full.dequant_filters / full.filters / full.heads
      multiples = {int(near), int(near) + 1} - {0}
      widths[-1:] = [{"filters": filters, "dequant_filters": full.heads * count} for count in sorted(multiples)]
  error = lambda width: abs(model_size(dataclasses.replace(changed, **width)).parameters - wanted)
  return min(widths, key=error)


def parameters_of(config: str, settings: Mapping[str, Any]) -> int:
  """Return the number of parameters of a run's model."""
  return model_size(Recipe.load(config).replace(**settings).config).parameters

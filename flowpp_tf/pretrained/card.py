"""The README.md of a saved preset: a model card for Hugging Face, with metadata that its site reads."""

from collections.abc import Mapping
import json
from typing import Any

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.config.size import model_size
from flowpp_tf.core.errors import with_error
from flowpp_tf.io.weights_file import WEIGHTS
from flowpp_tf.version import __version__

_TAGS = ("normalizing-flow", "flow++", "density-estimation", "image-generation", "tensorflow", "keras")


def model_card(
  name: str,
  config: FlowPlusPlusConfig,
  settings: Mapping[str, Any],
  about: Mapping[str, str],
  license: str,
  evaluation: Mapping[str, Any],
  dtype: str,
) -> str:
  """Return the text of a card.

  Args:
    name: title of the card.
    config: of the model.
    settings: of its training, as in config.json.
    about: description and SHA-256 of the weights' file, as in preset.json.
    license: of the model, an identifier such as "apache-2.0".
    evaluation: content of an evaluation.json, measured before the weights were rounded.
    dtype: of the weights.
  """
  data = settings.get("fingerprint") or {}
  real_valued = config.pixel_levels is None
  bounds = []
  for split, entry in evaluation.items():
    dataset = entry.get("data", {}).get("name", "the data")
    for bound in entry["bounds"]:
      bounds.append((dataset, split, bound_name(bound["num_samples"], real_valued), bound))
  values = "real numbers" if real_valued else f"integers in 0 .. {config.levels - 1}"
  rows = {
    "images": f"{' x '.join(map(str, config.image_shape))}, {values}",
    "parameters": f"{model_size(config).parameters:,}",
    "data": data and f"{data['name']}, fingerprint {data['digest']}",
    "weights": f"`{WEIGHTS}`, EMA weights in {dtype}, SHA-256 `{about['sha256']}`",
    "made by": f"flowpp_tf {__version__}",
  }
  header = ["---", *_header(name, license, bounds), "---"]
  lines = [*header, f"# {name}", "", about["description"], "", "| | |", "|---|---|"]
  lines += [f"| {key} | {value} |" for key, value in rows.items() if value]
  lines += ["", "```python", "import flowpp_tf as fpp", "", 'model = fpp.FlowPlusPlus.from_preset("hf://USER/MODEL")']
  labels = ", labels=0" if config.num_classes else ""
  condition = ", condition=condition" if config.condition_shape else ""
  lines += [f"images = model.sample(4{labels}{condition}, seed=0)", "```"]
  if bounds:
    lines += ["", "| data | bound | bits/dim |", "|---|---|---|"]
    for dataset, split, kind, bound in bounds:
      figure = with_error(bound["bits_per_dim"], bound["standard_error"])
      lines.append(f"| {dataset} {split} | {kind} | {figure} |")
    lines += ["", "Measured with the weights of the run, of which these are the rounded ones."]
  return "\n".join(lines) + "\n"


def _header(name, license, bounds):
  """Yield the lines of YAML; texts are written as JSON, which is valid YAML."""
  yield f"license: {json.dumps(license)}"
  yield "library_name: flowpp_tf"
  yield "pipeline_tag: unconditional-image-generation"
  yield f"tags: {json.dumps(list(_TAGS))}"
  if not bounds:
    return
  yield 'metrics: ["bits_per_dim"]'
  yield "model-index:"
  yield f"- name: {json.dumps(name)}"
  yield "  results:"
  for dataset, split, kind, bound in bounds:
    metric = {"type": "bits_per_dim", "value": bound["bits_per_dim"], "name": kind}
    yield "  - task: {type: unconditional-image-generation}"
    yield f"    dataset: {json.dumps({'name': dataset, 'type': dataset, 'split': split})}"
    yield f"    metrics: [{json.dumps(metric)}]"


def bound_name(num_samples: int, has_exact_density: bool = False) -> str:
  """Return the name of the bound with `num_samples` samples, or of the density of a model with `has_exact_density`."""
  if has_exact_density:
    return "negative log density"
  return "single-sample bound" if num_samples == 1 else f"importance-weighted bound, {num_samples} samples"

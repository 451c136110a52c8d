"""Describe a model and its provenance as text: a paragraph above the tabs, and the tab with its card."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

from flowpp_tf.core.errors import with_error
from flowpp_tf.data import describe
from flowpp_tf.demo.engine import Engine, SavedModelEngine
from flowpp_tf.pretrained.card import bound_name


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCard:
  """The records of a model.

  Attributes:
    source: path of the run, the preset, or the SavedModel.
    metadata: "data" (a fingerprint), "evaluation" (the entries of an evaluation.json) and "checkpoint", as `bin/export`
      stores them in a SavedModel; each may be missing.
    settings: settings of the training, from config.json.
    rows: rows of the run's metrics.
    text: content of a preset's card.md.
  """

  source: str
  metadata: Mapping[str, Any]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rows: Sequence[Mapping[str, Any]] = ()
  text: str = ""


def summary(name: str, card: ModelCard, engine: Engine | SavedModelEngine) -> str:
  """Return Markdown with a paragraph on the model, and its figures."""
  _, *paragraphs = _paragraphs(card.text) or [""]
  own = paragraphs[0] if paragraphs and not paragraphs[0].startswith(("|", "#")) else ""
  return (
    f"**{name}** is a normalizing flow: an invertible network that turns an image, and noise below its grey levels, "
    "into as many numbers that look like noise. Run backwards, it draws images from noise. Run forwards, it gives each "
    "image a lower bound of its likelihood, in bits per dimension: fewer bits are less surprise, and shorter files. "
    f"{_without_own_links(own)}\n\n{about(card.source, engine, dict(card.metadata))}"
  )


def provenance(card: ModelCard) -> str:
  """Return Markdown with a table of data, command, steps, hours, bits/dim and codecs that need less; and the limits."""
  own = dict(re.findall(r"^\| (data|command|time|weights) \| (.*) \|$", card.text, re.MULTILINE))
  data = card.metadata.get("data")
  described = describe(data) if data else "not recorded"
  command = own.get("command", "").replace("below", "in its card.md")
  rows = {
    "data": own.get("data") or described,
    "command": command or "not recorded; its settings are in config.json",
    "training": own.get("time") or _training(card),
    "weights": own.get("weights"),
    **_bounds(card.metadata),
  }
  table = "".join(f"| {name} | {_without_own_links(text)} |\n" for name, text in rows.items() if text)
  limits = [text for text in _paragraphs(card.text) if text.startswith("**Limits.**")]
  return f"| | |\n|---|---|\n{table}\n{_without_own_links(''.join(limits))}"


def _bounds(metadata):
  """Return the rows of the measured bounds and codecs by name."""
  split, entry = evaluated_split(metadata)
  if entry is None:
    return {"bits/dim": None}
  what = f"{entry['images']:,} {split} images"
  rows = {}
  for bound in entry["bounds"]:
    figure = with_error(bound["bits_per_dim"], bound.get("standard_error"))
    rows[bound_name(bound["num_samples"])] = f"{figure} bits/dim, {what}"
  best = entry["bounds"][-1]["bits_per_dim"]
  codecs = entry.get("codecs") or []
  sizes = {f"{codec['codec']}, {how}": codec[key] for codec in codecs for key, how in _HOW.items()}
  smallest = sorted(sizes.items(), key=lambda item: item[1])[:4]
  fewer = [f"{name}, {size:.3f}" for name, size in sizes.items() if size < best]
  if sizes:
    rows["codecs"] = "; ".join(f"{name} {size:.3f}" for name, size in smallest) + " bits/dim"
    rows["what it loses to"] = "; ".join(fewer) or "none of the codecs measured on these images"
  return rows


_HOW = {"each": "a file for each image", "sheet": "all images on one sheet"}


def _training(card):
  """Return the number of steps and the duration of a training from its rows; None without rows."""
  steps = [row["step"] for row in card.rows]
  if not steps:
    return None
  batch = card.settings.get("batch_size")
  seconds = math.nan
  if isinstance(batch, int):
    lengths = [after - before for before, after in zip([0, *steps], steps)]
    speeds = [row.get("images_per_second", math.nan) for row in card.rows]
    intervals = [(length, speed) for length, speed in zip(lengths, speeds) if length]  # a row at step 0 took no time
    seconds = sum(length * batch / speed if speed > 0 else math.nan for length, speed in intervals)
  hours = f", some {seconds / 3600:.2g} hours by its rows" if math.isfinite(seconds) else ""
  images = f" of {batch} images" if batch else ""
  return f"{steps[-1]:,} steps{images}{hours}"


def _paragraphs(text):
  return [paragraph.strip() for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _without_own_links(text):
  """Return Markdown without links to files of the package, which the page does not serve."""
  return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


# --- The paragraph above the tabs ------------------------------------------------------------------


def about(source: str, engine: Engine | SavedModelEngine, metadata: dict[str, Any]) -> str:
  """Return Markdown that describes a model from the path `source`; `metadata` as in `ModelCard`."""
  data = metadata.get("data")
  shape = "x".join(map(str, engine.config.image_shape))
  trained_on = describe(data) if data else f"images of {shape}, {engine.config.levels} levels; which is not recorded"
  lines = [f"`{source}`, {engine.parameters:,} parameters", f"Trained on {trained_on}", _measured(metadata, data)]
  return "  \n".join(lines)


def evaluated_split(metadata: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
  """Return the name and the entry of the test split, else of another evaluated split; ("", None) without any."""
  splits = {
    split: entry
    for split, entry in (metadata.get("evaluation") or {}).items()
    if isinstance(entry, dict) and entry.get("bounds")
  }
  split = "test" if "test" in splits else next(iter(splits), "")
  return split, splits.get(split)


def _measured(metadata, trained_on):
  """Return a line with the bits/dim of the test split, else of another split, else of validation in training."""
  split, entry = evaluated_split(metadata)
  if entry is not None:
    single = entry["bounds"][0]
    best = entry["bounds"][-1]
    images = f"{entry['images']:,} {split} images"
    measured = entry.get("data")
    if trained_on and measured and measured["digest"] != trained_on["digest"]:
      images += f" of {describe(measured)}"
    bits = f"{single['bits_per_dim']:.3f} single-sample"
    if best is not single:
      bits = f"{best['bits_per_dim']:.3f} importance-weighted, {best['num_samples']} samples; {bits}"
    return f"Bits/dim of {images}: {bits}"
  validation = (metadata.get("checkpoint") or {}).get("val_bits_per_dim")
  if validation is not None:
    return f"Bits/dim of validation: {validation:.3f} single-sample, as measured in training"
  return "Its bits/dim have not been measured"

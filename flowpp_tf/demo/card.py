"""What a model is and where it comes from, as text: a paragraph above the tabs, and the tab with its card."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

from flowpp_tf.core.errors import with_error
from flowpp_tf.data import describe
from flowpp_tf.demo.engine import Engine, SavedModelEngine
from flowpp_tf.pretrained.card import name_of_bound


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCard:
  """What is recorded of a model.

  Attributes:
    source: path of the run, the preset, or the SavedModel.
    metadata: "data" (a fingerprint), "evaluation" (the entries of an evaluation.json) and "checkpoint", as `bin/export`
      stores them in a SavedModel; each may be missing.
    settings: of the training, from config.json.
    rows: of the run's metrics.
    text: the card.md of a preset.
  """

  source: str
  metadata: Mapping[str, Any]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rows: Sequence[Mapping[str, Any]] = ()
  text: str = ""


def summary(name: str, card: ModelCard, engine: Engine | SavedModelEngine) -> str:
  """Return Markdown that says what the model is, in a paragraph, and its figures."""
  _, *paragraphs = _paragraphs(card.text) or [""]
  own = paragraphs[0] if paragraphs and not paragraphs[0].startswith(("|", "#")) else ""
  return (
    f"**{name}** is a normalizing flow: an invertible network that turns an image, and noise below its grey levels, "
    "into as many numbers that look like noise. Run backwards, it draws images from noise. Run forwards, it gives each "
    "image a lower bound of its likelihood, in bits per dimension: fewer bits are less surprise, and shorter files. "
    f"{_without_own_links(own)}\n\n{about(card.source, engine, dict(card.metadata))}"
  )


def provenance(card: ModelCard) -> str:
  """Return Markdown with a table: data, command, steps, hours, bits/dim, what takes fewer; and the limits."""
  own = dict(re.findall(r"^\| (data|command|time|weights) \| (.*) \|$", card.text, re.MULTILINE))
  data = card.metadata.get("data")
  rows = {
    "data": own.get("data") or (describe(data) if data else "not recorded"),
    "command": own.get("command", "").replace("below", "in its card.md")
    or "not recorded; its settings are in config.json",
    "training": own.get("time") or _training(card),
    "weights": own.get("weights"),
    **_bounds(card.metadata),
  }
  table = "".join(f"| {name} | {_without_own_links(text)} |\n" for name, text in rows.items() if text)
  limits = [text for text in _paragraphs(card.text) if text.startswith("**Limits.**")]
  return f"| | |\n|---|---|\n{table}\n{_without_own_links(''.join(limits))}"


def _bounds(metadata):
  """The rows on what was measured, each with the name of its bound."""
  split, entry = evaluated_split(metadata)
  if entry is None:
    return {"bits/dim": None}
  what = f"{entry['images']:,} {split} images"
  rows = {}
  for bound in entry["bounds"]:
    figure = with_error(bound["bits_per_dim"], bound.get("standard_error"))
    rows[name_of_bound(bound["num_samples"])] = f"{figure} bits/dim, {what}"
  codecs, best = entry.get("codecs") or [], entry["bounds"][-1]["bits_per_dim"]
  sizes = {f"{codec['codec']}, {how}": codec[key] for codec in codecs for key, how in _HOW.items()}
  shown = "; ".join(f"{name} {size:.3f}" for name, size in sorted(sizes.items(), key=lambda item: item[1])[:4])
  fewer = [f"{name}, {size:.3f}" for name, size in sizes.items() if size < best]
  if sizes:
    rows["codecs"] = f"{shown} bits/dim"
    rows["what it loses to"] = "; ".join(fewer) or "none of the codecs measured on these images"
  return rows


_HOW = {"each": "a file for each image", "sheet": "all images on one sheet"}


def _training(card):
  """What the rows of a run say of its length."""
  steps = [row["step"] for row in card.rows]
  if not steps:
    return None
  batch, seconds = card.settings.get("batch_size"), math.nan
  if isinstance(batch, int):
    lengths = [after - before for before, after in zip([0, *steps], steps)]
    speeds = [row.get("images_per_second", math.nan) for row in card.rows]
    taken = [(length, speed) for length, speed in zip(lengths, speeds) if length]  # step 0 has taken none
    seconds = sum(length * batch / speed if speed > 0 else math.nan for length, speed in taken)
  hours = f", some {seconds / 3600:.2g} hours by its rows" if math.isfinite(seconds) else ""
  return f"{steps[-1]:,} steps{f' of {batch} images' if batch else ''}{hours}"


def _paragraphs(text):
  return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _without_own_links(text):
  """Markdown without links to files of the package, which the page does not serve."""
  return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


# --- The paragraph above the tabs ------------------------------------------------------------------


def about(source: str, engine: Engine | SavedModelEngine, metadata: dict[str, Any]) -> str:
  """Return Markdown that describes a model from the path `source`; `metadata` as in `ModelCard`."""
  data = metadata.get("data")
  shape = "x".join(map(str, engine.config.image_shape))
  lines = [
    f"`{source}`, {engine.parameters:,} parameters",
    f"Trained on {describe(data)}"
    if data
    else f"Trained on images of {shape}, {engine.config.levels} levels; which is not recorded",
    _measured(metadata, data),
  ]
  return "  \n".join(lines)


def evaluated_split(metadata: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
  """Return the name and the entry of the test split, else of another one that was evaluated; None if none was."""
  splits = {
    split: entry
    for split, entry in (metadata.get("evaluation") or {}).items()
    if isinstance(entry, dict) and entry.get("bounds")
  }
  split = "test" if "test" in splits else next(iter(splits), "")
  return split, splits.get(split)


def _measured(metadata, trained_on):
  """Return the bits/dim of the test split, else of another split, else of validation in training."""
  split, entry = evaluated_split(metadata)
  if entry is not None:
    single, best = entry["bounds"][0], entry["bounds"][-1]
    text = (
      "" if best is single else (f"{best['bits_per_dim']:.3f} importance-weighted, {best['num_samples']} samples; ")
    )
    measured = entry.get("data")
    other = (
      f" of {describe(measured)}" if trained_on and measured and measured["digest"] != trained_on["digest"] else ""
    )
    return f"Bits/dim of {entry['images']:,} {split} images{other}: {text}{single['bits_per_dim']:.3f} single-sample"
  validation = (metadata.get("checkpoint") or {}).get("val_bits_per_dim")
  if validation is not None:
    return f"Bits/dim of validation: {validation:.3f} single-sample, as measured in training"
  return "Its bits/dim have not been measured"

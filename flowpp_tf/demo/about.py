"""The description of a model at the top of the page."""

from collections.abc import Mapping
from typing import Any

from flowpp_tf.data import describe
from flowpp_tf.demo.engine import Engine, SavedModelEngine


def about(source: str, engine: Engine | SavedModelEngine, metadata: dict[str, Any]) -> str:
  """Return Markdown that describes a model from the path `source`.

  `metadata` has "data" (a fingerprint), "evaluation" (the entries of an evaluation.json) and "checkpoint", as
  `bin/export` stores them in a SavedModel; each may be missing.
  """
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

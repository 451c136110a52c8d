"""Record in a run's config.json which images its data set has, if the data set was loaded by name."""

from collections.abc import Mapping
import os
from typing import Any

DATA_SETTINGS = ("data_dir", "cache_dir", "bits", "splits_file", "max_bad_files", "crops", "download")


def recorded_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
  """Return the data set's name and all of `DATA_SETTINGS`, with None for settings that are not given.

  Paths become absolute, so that other working directories find them.

  Examples:
    >>> from flowpp_tf.config.data import recorded_settings
    >>> recorded_settings("digits", {"bits": 4})["bits"]
    4
  """
  kind, _, path = name.partition(":")
  if kind in ("folder", "npz") and path:
    name = f"{kind}:{os.path.abspath(os.path.expanduser(path))}"
  recorded: dict[str, Any] = {key: settings.get(key) for key in DATA_SETTINGS}
  for key in ("data_dir", "cache_dir", "splits_file"):
    if recorded[key] and "://" not in recorded[key]:
      recorded[key] = os.path.abspath(os.path.expanduser(recorded[key]))
  return {"dataset": name, **recorded}

"""The schema of assets/metadata.json in a SavedModel, as `bin/export` writes it and the page shows it."""

from typing import Any

from flowpp_tf.core.errors import InputError

_NUMBER, _MISSING = (int, float), (type(None),)
_SPLITS = {"train": (int,), "validation": (int,), "test": (int,)}
_DATA = {
  "name": (str,),
  "version": (str,) + _MISSING,
  "splits": _SPLITS,
  "levels": (int,),
  "image_shape": (list,),
  "digest": (str,),
  "classes": (list,) + _MISSING,
}
_CHECKPOINT = {"val_bits_per_dim": _NUMBER + _MISSING}
_CODEC = {"codec": (str,), "each": _NUMBER, "sheet": _NUMBER}
_BOUND = {"num_samples": (int,), "bits_per_dim": _NUMBER, "standard_error": _NUMBER + _MISSING}


def checked_metadata(metadata: Any) -> dict[str, Any]:
  """Return the content of a metadata.json; raise an `InputError` that names what is not as `bin/export` writes it."""
  for name, schema in (("data", _DATA), ("checkpoint", _CHECKPOINT)):
    if metadata.get(name) is not None:
      _check(f"metadata.json: `{name}`", metadata[name], schema)
  evaluation = metadata.get("evaluation") or {}
  _check("metadata.json: `evaluation`", evaluation, {})
  for split, entry in evaluation.items():
    where = f"metadata.json: `evaluation` of {split!r}"
    _check(where, entry, {"images": (int,), "bounds": (list,)})
    if entry.get("data") is not None:
      _check(f"{where}: `data`", entry["data"], _DATA)
    if not entry["bounds"]:
      raise InputError(f"{where}: `bounds` is empty")
    for bound in entry["bounds"]:
      _check(f"{where}: `bounds`", bound, _BOUND)
    codecs = entry.get("codecs") or []
    if not isinstance(codecs, list):
      raise InputError(f"{where}: `codecs` must be list, got {_shown(codecs)}")
    for codec in codecs:
      _check(f"{where}: `codecs`", codec, _CODEC)
  return metadata


def _check(where, value, schema):
  if not isinstance(value, dict):
    raise InputError(f"{where} must be a table, got {_shown(value)}")
  for name, expected in schema.items():
    found = value.get(name)
    if isinstance(expected, dict):
      _check(f"{where}: `{name}`", found, expected)
    elif not isinstance(found, expected) or isinstance(found, bool):
      kinds = " or ".join("null" if kind in _MISSING else kind.__name__ for kind in expected)
      raise InputError(f"{where}: `{name}` must be {kinds}, got {_shown(found)}")


def _shown(value):
  text = repr(value)
  return text if len(text) < 40 else f"{text[:40]}..."

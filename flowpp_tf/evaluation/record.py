"""Read and write evaluation.json, the measured bits/dim of a run.

    {"test": {"images": 180,
              "bounds": [{"num_samples": 1, "bits_per_dim": 1.828, "standard_error": 0.019}, ...],
              "terms": {"log_det": ..., "prior": ..., "dequantization": ...},   bits/dim, of one sample
              "codecs": [{"codec": "PNG", "each": 14.168, "standard_error": 0.029, "sheet": 3.834}, ...],   if measured
              "data": the fingerprint of the data set, "checkpoint": the weights, "seed": 0},
     "test samples": {"images": 180, "features": "classes", "real": {"images": 1000, "frechet_distance": 5.5, ...},
                      "temperatures": {"1.0": as "real", ...}, "data", "checkpoint", "seed"}, ...}

Each split has one entry, the newest. If the entry has more images, a new one of fewer images of the same weights and
data, as from `--limit=20`, is stored next to it as "test[:20]".
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from flowpp_tf.core.checks import check_arguments, check_count
from flowpp_tf.evaluation.codecs import CodecBits
from flowpp_tf.evaluation.likelihood import BitsPerDim
from flowpp_tf.io.files import locked, write_json, writing
from flowpp_tf.io.gate import read_json, reading
from flowpp_tf.types import Path

_INPUTS = ("data", "checkpoint")  # keys of an entry


@check_arguments
def read_record(path: Path) -> dict:
  """Return the entries of a file by split, `{}` if the file does not exist.

  Raises:
    InputError (a ValueError): if the file cannot be read as such a record.

  Examples:
    >>> from flowpp_tf.evaluation import read_record
    >>> read_record("no_such_run/evaluation.json")
    {}
  """
  path = pathlib.Path(path)
  if not path.exists():
    return {}
  with reading(path, "use another --output, or move it away"):
    record = read_json(path)
    if not isinstance(record, dict) or not all(map(_is_entry, record.values())):
      raise ValueError("it is not a table of splits")
    return record


@check_arguments
def write_record(
  path: Path,
  split: str,
  result: BitsPerDim,
  fingerprint: dict,
  checkpoint: dict,
  seed: int,
  codecs: Sequence[CodecBits] = (),
) -> None:
  """Replace the entry of a split and keep the others.

  Args:
    path: path of the file.
    split: name of the split.
    result: `BitsPerDim`.
    fingerprint: from `ImageDataset.fingerprint`.
    checkpoint: from `Workdir.weights_info`.
    seed: seed of the draws, an integer of 64 bits.
    codecs: bits/dim of codecs for the same images.

  Raises:
    InputError (a ValueError): if the file is not such a record, or cannot be written.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import evaluate_bits_per_dim, read_record, write_record
    >>> images = load_dataset("digits").test[:4]
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> result, fingerprint = evaluate_bits_per_dim(model, images), load_dataset("digits").fingerprint()
    >>> write_record("evaluation.json", "test", result, fingerprint, {"sha256": "of the weights"}, seed=0)
    >>> list(read_record("evaluation.json"))
    ['test']
  """
  check_count("seed", seed, -(2**63), 2**63 - 1)
  entry = dataclasses.asdict(result) | {"data": fingerprint, "checkpoint": checkpoint, "seed": int(seed)}
  if codecs:
    entry["codecs"] = [dataclasses.asdict(codec) for codec in codecs]
  write_entry(path, split, entry)


def write_entry(path: Path, name: str, entry: dict) -> None:
  """Replace an entry and keep the others; the module's docstring tells when the new entry gets another name.

  Raises:
    InputError (a ValueError): if the file is not such a record, or cannot be written.
  """
  path = pathlib.Path(path)
  with writing(repr(str(path))), locked(path.with_name(f".{path.name}.lock")):  # another process may add an entry
    record = read_record(path)
    known = record.get(name, {})
    count = entry.get("images", 0)
    same_inputs = all(_sha256(known, key) == _sha256(entry, key) for key in _INPUTS)
    if same_inputs and known.get("images", 0) > count:
      name = f"{name}[:{count}]"
    write_json(path, record | {name: entry})


def _sha256(entry, key):
  return (entry.get(key) or {}).get("sha256")


def _is_entry(entry):
  """Return whether the entry of a split has the types that are read later."""
  if not isinstance(entry, dict) or not isinstance(entry.get("images"), int):
    return False
  return all(isinstance(entry.get(key), (dict, type(None))) for key in _INPUTS)

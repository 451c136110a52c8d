"""evaluation.json: what has been measured of a run, for machines.

    {"test": {"images": 180,
              "bounds": [{"num_samples": 1, "bits_per_dim": 1.828, "standard_error": 0.019}, ...],
              "terms": {"log_det": ..., "prior": ..., "dequantization": ...},   bits/dim, of one sample
              "data": the fingerprint of the data set, "checkpoint": the weights, "seed": 0}, ...}

A split has an entry, its newest.
"""

import dataclasses
import json
import math
import pathlib

from flowpp_tf.errors import InputError
from flowpp_tf.files import replace_file


def read_record(path):
  """The entries of a file, `{}` if there is none.

  Raises:
    InputError (a ValueError): if it holds something else.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return {}
  try:
    record = json.loads(path.read_text())
    if not isinstance(record, dict):
      raise ValueError("it is no table of splits")
    return record
  except (OSError, ValueError) as error:
    raise InputError(f"{str(path)!r} cannot be read: {error}; give another --output, or move it "
                     "away") from None


def write_record(path, split, result, fingerprint, checkpoint, seed):
  """Puts a split's entry in place, and leaves the others.

  Args:
    path: of the file.
    split: name.
    result: `BitsPerDim`.
    fingerprint: `dict`, of `ImageDataset.fingerprint`.
    checkpoint: `dict`, of `Workdir.checkpoint`.
    seed: of the draws.

  Raises:
    InputError (a ValueError): if the file is something else, or cannot be written.
  """
  entry = dataclasses.asdict(result) | {"data": fingerprint, "checkpoint": checkpoint, "seed": seed}
  for bound in entry["bounds"]:
    if math.isnan(bound["standard_error"]):  # which JSON has not
      bound["standard_error"] = None
  text = json.dumps(read_record(path) | {split: entry}, indent=2) + "\n"
  try:
    replace_file(path, lambda temporary: temporary.write_text(text))
  except OSError as error:
    raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from None

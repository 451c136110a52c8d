"""assets.extra/digests.json: the SHA-256 of each file of a SavedModel, by which damage is found when it is loaded."""

import json
import pathlib

from flowpp_tf.io import gate
from flowpp_tf.io.files import file_sha256

_NAME = pathlib.PurePath("assets.extra", "digests.json")


def write_digests(folder: pathlib.Path) -> None:
  """Write the digests of a SavedModel that is complete except for them."""
  digests = _digests(folder)
  (folder / _NAME).parent.mkdir()
  (folder / _NAME).write_text(json.dumps(digests, indent=2) + "\n")


def check_digests(folder: pathlib.Path) -> None:
  """Raise a `ValueError` or an `OSError` if a file of a SavedModel has changed, or it has no digests."""
  found = _digests(folder)
  expected = gate.read_json(folder / _NAME)
  if found != expected:
    names = {*found, *expected} if isinstance(expected, dict) else {str(_NAME)}
    wrong = sorted(name for name in names if not isinstance(expected, dict) or found.get(name) != expected.get(name))
    raise ValueError(f"{', '.join(wrong)} changed since it was written")


def _digests(folder):
  digests = {}
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder)
    if not path.is_dir() and name.parts[0] != _NAME.parts[0]:
      digests[name.as_posix()] = file_sha256(path)
  return digests

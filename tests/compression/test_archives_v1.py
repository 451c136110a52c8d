"""Archives of version 1 decode to the bits that they were made from, in every later version."""

import functools
import hashlib
import io
import json
import pathlib

import pytest

import flowpp_tf as fpp
from flowpp_tf import compression
from flowpp_tf.compression import archive
from flowpp_tf.compression.files import pictures
from flowpp_tf.io.weights_file import read_weights
from support.marks import slow

pytestmark = pytest.mark.needs("constriction")

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "archives_v1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@functools.cache
def digits():
  model = fpp.FlowPlusPlus(fpp.get_config("digits"))
  read_weights(FOLDER / "digits.weights.h5", unchecked=True).load(model)
  return model


def decoded(data, reader, coder):
  """What an archive holds, as expected.json says it."""
  if reader.header.kind == "images":
    images = fpp.decompress(coder, data)
    return {"shape": list(images.shape), "sha256": hashlib.sha256(images.tobytes()).hexdigest()}
  return [
    [item.name, None if item.pixels is None else list(item.pixels.shape), hashlib.sha256(item.content).hexdigest()]
    for item in pictures.read_pictures(reader, coder)
  ]


def test_the_folder_is_complete_and_small():
  files = {path.name: path.stat().st_size for path in FOLDER.glob("*.fpp")}
  assert {*files} == {*EXPECTED} and sum(files.values()) < 200_000


@pytest.mark.parametrize("name", [slow(name) if "float64" in name or "exact" in name else name for name in EXPECTED])
def test_an_archive_of_version_1_decodes_to_the_same_bits(name):
  data = (FOLDER / name).read_bytes()
  reader = archive.ArchiveReader(io.BytesIO(data))
  assert reader.header.version == 1
  coder = compression.coder_for(reader, reader.model or digits())
  if reader.header.tier != "portable" and coder.probe != reader.header.probe:
    with pytest.raises(compression.ArchiveError, match="this machine's networks give other numbers"):
      decoded(data, reader, coder)
  else:
    assert decoded(data, reader, coder) == EXPECTED[name]

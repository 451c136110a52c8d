"""Stored archives decode to the bits that they were made from, in every later version."""

import hashlib
import json
import pathlib

import pytest

import flowpp_tf as fpp

pytestmark = pytest.mark.needs("constriction")

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "archives"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_the_folder_is_complete():
  assert {path.name for path in FOLDER.glob("*.fpp")} == {*EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stored_archive_decodes_to_the_same_bits(name):
  images = fpp.decompress(None, (FOLDER / name).read_bytes())
  assert {"shape": list(images.shape), "sha256": hashlib.sha256(images.tobytes()).hexdigest()} == EXPECTED[name]

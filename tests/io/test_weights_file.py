"""Weights from outside: plain arrays, each once, claimed before they are read, and vouched for."""

import io
import json
import random

import h5py
import numpy as np
import pytest
import safetensors.numpy

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget, weights_file
from flowpp_tf.io.budget import Budget, BudgetError
from flowpp_tf.io.weights_file import read_weights, weights_to_bytes
from support import hostile_files as hostile
from support.models import TINY, perturb

ZEROS = np.zeros(1000, np.float32)


@pytest.fixture(scope="module")
def model():
  return perturb(fpp.FlowPlusPlus(TINY))


def hdf5_file(path, write):
  with h5py.File(path, "w") as file:
    write(file)
  return path


def doubled(file):
  """Forty levels of a group with two names: 2^40 names in all."""
  group = file.create_group("0")
  for i in range(40):
    inner = group.create_group("a")
    group["b"] = inner
    group = inner
  group["array"] = ZEROS


def virtual(file):
  layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
  layout[:] = h5py.VirtualSource("/etc/passwd", "data", shape=(4,))
  file.create_virtual_dataset("a", layout)


def shared_array(file):
  file["a"] = ZEROS
  file["b"] = file["a"]


HOSTILE = {
  "two names of a group": (doubled, "it has two names for the same object"),
  "two names of an array": (shared_array, "it has two names for the same object"),
  "a circle": (lambda file: file.create_group("a").__setitem__("b", file["a"]), "it has two names for the same object"),
  "a circle to the root": (lambda file: file.__setitem__("a", file["/"]), "it has two names for the same object"),
  "a soft link": (lambda file: file.__setitem__("a", h5py.SoftLink("/b")), "it has links"),
  "an external link": (lambda file: file.__setitem__("a", h5py.ExternalLink("b.h5", "/b")), "it has links"),
  "a virtual data set": (virtual, "its arrays are in other files"),
  "external storage": (
    lambda file: file.create_dataset("a", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
    "its arrays are in other files",
  ),
  "compression": (lambda file: file.create_dataset("a", data=ZEROS, compression="gzip"), "in chunks or by filters"),
  "a checksum of a filter": (
    lambda file: file.create_dataset("a", data=ZEROS, fletcher32=True),
    "in chunks or by filt",
  ),
  "chunks": (lambda file: file.create_dataset("a", data=ZEROS, chunks=(10,)), "in chunks or by filters"),
  "text": (lambda file: file.create_dataset("a", data=["text"]), "must hold numbers, got object"),
  "a type": (lambda file: file.__setitem__("a", np.dtype("f4")), "'/a' is not an array"),
  "more than the file": (
    lambda file: file.create_dataset("a", (1 << 40,), "u1"),
    "its arrays are larger than the file",
  ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_hdf5_files_are_refused_before_an_array_is_read(tmp_path, name, monkeypatch, model):
  write, message = HOSTILE[name]
  path = hdf5_file(tmp_path / "a.weights.h5", write)
  monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, index: pytest.fail("an array is read"))
  for read in (lambda path: read_weights(path, unchecked=True), model.load_weights):
    with pytest.raises(InputError, match=message) as error:
      read(path)
    assert "a.weights.h5' cannot be read: " in str(error.value)


def test_the_work_on_a_file_is_linear_in_its_groups(tmp_path, monkeypatch):
  visited = []
  real = weights_file._address
  monkeypatch.setattr(weights_file, "_address", lambda item: visited.append(1) or real(item))
  with pytest.raises(InputError):
    read_weights(hdf5_file(tmp_path / "a.h5", doubled), unchecked=True)
  assert len(visited) < 100


def test_a_deep_chain_of_groups_is_read_group_by_group(tmp_path, monkeypatch):
  """Visitors of h5py name each group by its whole path: 2,000 of them take minutes."""
  visited, real = [], weights_file._address
  monkeypatch.setattr(weights_file, "_address", lambda item: visited.append(1) or real(item))
  monkeypatch.setattr(h5py.Group, "visititems", lambda *given: pytest.fail("paths are built"))
  monkeypatch.setattr(h5py.Group, "visititems_links", lambda *given: pytest.fail("paths are built"))

  def write(file):
    for _ in range(2000):
      file = file.create_group("a")

  assert not read_weights(hdf5_file(tmp_path / "a.h5", write), unchecked=True).checked
  assert len(visited) == 2001


def test_groups_and_arrays_are_claimed(tmp_path):
  def write(file):
    for i in range(30):
      file[f"{i}"] = ZEROS

  path = hdf5_file(tmp_path / "a.weights.h5", write)
  read_weights(path, unchecked=True)
  for limits, message in (
    (Budget(items=29), "its HDF5 groups has 30 items"),
    (Budget(memory=100_000), "its arrays would take 117 KiB"),
    (Budget(bytes_in=1000), "has .* KiB; at most 1,000 bytes are read"),
  ):
    with budget.use(limits), pytest.raises(BudgetError, match=f"a.weights.h5'.* {message}|a.weights.h5' {message}"):
      read_weights(path, unchecked=True)


def without_attribute(content):
  file = io.BytesIO(content)
  with h5py.File(file, "r+") as opened:
    del opened.attrs["flowpp_tf"]
  return file.getvalue()


def test_a_file_without_its_checksum_is_read_only_if_another_vouches_for_it(tmp_path, model):
  path, content = tmp_path / "a.weights.h5", without_attribute(weights_to_bytes(model))
  path.write_bytes(content)
  with pytest.raises(InputError, match="has no checksum.*--accept_unchecked, in Python `unchecked=True`"):
    read_weights(path)
  sha256 = read_weights(path, unchecked=True).sha256
  read_weights(path, sha256)
  with pytest.raises(InputError, match="it has the SHA-256 .* expected 0000"):
    read_weights(path, 64 * "0")


def test_files_that_keras_wrote_are_loaded_by_its_own_method(tmp_path, model):
  """They have no checksum; `load_weights` of a model takes them all the same, as Keras does."""
  other = fpp.FlowPlusPlus(TINY)
  model.save_weights(tmp_path / "a.weights.h5")
  other.load_weights(tmp_path / "a.weights.h5")
  for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs)


# --- safetensors ----------------------------------------------------------------------------------


def test_weights_go_through_safetensors_under_the_paths_of_the_weights(tmp_path, model):
  path = tmp_path / "a.safetensors"
  path.write_bytes(weights_to_bytes(model, suffix=".safetensors"))
  other = fpp.FlowPlusPlus(TINY, name="of_another_name")
  read_weights(path).load(other)
  assert other.initialized
  for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  arrays = safetensors.numpy.load_file(path)  # others read it
  assert {f"{model.name}/{name}" for name in arrays} == {weight.path for weight in model.weights}


def test_safetensors_of_another_architecture_leave_the_model_as_it_is(tmp_path, model):
  before, path = model.get_weights(), tmp_path / "a.safetensors"
  arrays = {name: array + 1 for name, array in _arrays(model).items()}
  name = next(iter(arrays))
  for wrong, message in (
    ({**arrays, "more": ZEROS}, r"more has shape \(1000,\), expected none"),
    ({other: array for other, array in arrays.items() if other != name}, f"{name} has shape none, expected"),
    ({**arrays, name: ZEROS}, rf"{name} has shape \(1000,\), expected"),
  ):
    safetensors.numpy.save_file(wrong, path)
    with pytest.raises(InputError, match=f"the weights do not fit the model: {message}"):
      read_weights(path, unchecked=True).load(model)
  safetensors.numpy.save_file({**arrays, name: arrays[name] * np.nan}, path)
  with pytest.raises(InputError, match=f"the weights must be finite, got NaN or infinity in {name}"):
    read_weights(path, unchecked=True).load(model)
  for ours, theirs in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  safetensors.numpy.save_file(_arrays(model), path)  # of another program, without a checksum
  read_weights(path, unchecked=True).load(model)


def _arrays(model):
  return {weight.path.removeprefix(f"{model.name}/"): weight.numpy() for weight in model.weights}


def header(**entries):
  text = json.dumps(entries).encode()
  return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "it is not a safetensors file"),
    (bytes(8), "it is not a safetensors file"),
    ((1 << 60).to_bytes(8, "little") + b"{}", "it is not a safetensors file"),
    (header(a={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}), "it is not a safetensors file: "),
    (header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}) + bytes(4), "it is not a safetensors file: "),
    ((2).to_bytes(8, "little") + b"[]", "its header is not a table"),
    ((100_000).to_bytes(8, "little") + 100_000 * b"[", "it is nested too deeply"),
    ((2).to_bytes(8, "little") + b"\xff\xff", "cannot be read"),
  ],
)
def test_hostile_safetensors_are_one_line(tmp_path, content, message):
  path = tmp_path / "a.safetensors"
  path.write_bytes(content)
  with pytest.raises(InputError, match=f"a.safetensors' cannot be read: .*{message}|{message}") as error:
    read_weights(path, unchecked=True)
  assert "\n" not in str(error.value)


def test_headers_and_arrays_of_safetensors_are_claimed(tmp_path, model):
  path = tmp_path / "a.safetensors"
  path.write_bytes(weights_to_bytes(model, suffix=".safetensors"))
  for limits, message in (
    (Budget(items=3), "its header has .* items"),
    (Budget(memory=10_000), "JSON of .* would take"),
    (Budget(bytes_in=100), "at most 100 bytes are read"),
  ):
    with budget.use(limits), pytest.raises(BudgetError, match=message):
      read_weights(path)


def test_damaged_copies_of_safetensors_are_the_weights_or_one_line(tmp_path, model):
  rng, path = random.Random(0), tmp_path / "a.safetensors"
  good = weights_to_bytes(model, suffix=".safetensors")
  expected, refused = model.get_weights(), 0
  for _ in range(60):
    path.write_bytes(hostile.damaged(good, rng))
    try:
      read_weights(path).load(model)
    except InputError as error:
      assert "a.safetensors'" in str(error) and "\n" not in str(error)
      refused += 1
  for ours, theirs in zip(model.get_weights(), expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert refused > 50

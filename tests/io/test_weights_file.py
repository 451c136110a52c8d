"""Weights from outside: claimed before they are read, and vouched for."""

import json
import random
import types

import keras
import numpy as np
import pytest
import safetensors.numpy

import flowpp_tf as fpp
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget
from flowpp_tf.io.budget import Budget, BudgetError
from flowpp_tf.io.weights_file import read_weights, weights_to_bytes
from hardening.mutations import mutate_bytes
from support.comparing import assert_same
from support.files import flipped
from support.models import TINY, perturb
from support.refusing import refuses

ZEROS = np.zeros(1000, np.float32)


@pytest.fixture(scope="module")
def model():
  return perturb(fpp.FlowPlusPlus(TINY))


def test_a_file_without_its_checksum_is_read_only_if_another_vouches_for_it(tmp_path, model):
  path = tmp_path / "a.safetensors"
  safetensors.numpy.save_file(_arrays(model), path)
  refuses("has no checksum.*--accept_unchecked, in Python `unchecked=True`", read_weights, path)
  sha256 = read_weights(path, unchecked=True).sha256
  read_weights(path, sha256)
  refuses("it has the SHA-256 .* expected 0000", read_weights, path, 64 * "0")


def test_weights_of_one_path_are_refused():
  """A file would have one of them."""
  layers = [keras.layers.Dense(1, name="a") for _ in range(2)]
  for layer in layers:
    layer.build([None, 1])
  both = types.SimpleNamespace(name="both", weights=[weight for layer in layers for weight in layer.weights])
  refuses("two weights of the model have the same path", weights_to_bytes, both)


def test_files_that_keras_wrote_are_loaded_by_its_own_method(tmp_path, model):
  """They have no checksum; `load_weights` of a model takes them all the same, as Keras does."""
  other = fpp.FlowPlusPlus(TINY)
  model.save_weights(tmp_path / "a.weights.h5")
  other.load_weights(tmp_path / "a.weights.h5")
  assert_same(other.get_weights(), model.get_weights())


def test_weights_go_through_safetensors_under_the_paths_of_the_weights(tmp_path, model):
  path = tmp_path / "a.safetensors"
  path.write_bytes(weights_to_bytes(model))
  other = fpp.FlowPlusPlus(TINY, name="of_another_name")
  read_weights(path).load(other)
  assert other.initialized
  assert_same(other.get_weights(), model.get_weights())
  arrays = safetensors.numpy.load_file(path)  # others read it
  assert {f"{model.name}/{name}" for name in arrays} == {weight.path for weight in model.weights}


def test_a_weight_without_sides_comes_back(tmp_path):
  weight = keras.Variable(3.5, name="scale")
  path = tmp_path / "a.safetensors"
  path.write_bytes(weights_to_bytes(types.SimpleNamespace(name="model", weights=[weight])))
  weight.assign(0.0)
  read_weights(path).load(types.SimpleNamespace(name="model", weights=[weight]))
  assert weight.shape == () and float(weight) == 3.5


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
    refuses(f"the weights do not fit the model: {message}", read_weights(path, unchecked=True).load, model)
  safetensors.numpy.save_file({**arrays, name: arrays[name] * np.nan}, path)
  refuses(f"the weights must be finite, got NaN or infinity in {name}", read_weights(path, unchecked=True).load, model)
  safetensors.numpy.save_file({**arrays, name: arrays[name].astype(np.int32)}, path)
  refuses(f"of the model's kind, float32, got int32 in {name}", read_weights(path, unchecked=True).load, model)
  assert_same(model.get_weights(), before)
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
  path.write_bytes(weights_to_bytes(model))
  for limits, message in (
    (Budget(items=3), "its header has .* items"),
    (Budget(memory=10_000), "JSON of .* would take"),
    (Budget(bytes_in=100), "at most 100 bytes are read"),
  ):
    with budget.use(limits), pytest.raises(BudgetError, match=message):
      read_weights(path)


def flip(data, rng):
  """Return a copy with another bit."""
  return flipped(data, rng.randrange(len(data)), 1 << rng.randrange(8))


@pytest.mark.parametrize("damage, least", [(flip, 60), (mutate_bytes, 51)])
def test_damaged_copies_of_safetensors_are_the_weights_or_one_line(tmp_path, model, damage, least):
  """Every flipped bit is found."""
  rng, path = random.Random(0), tmp_path / "a.safetensors"
  good = weights_to_bytes(model, {"step": 3})
  expected, refused = model.get_weights(), 0
  for _ in range(60):
    path.write_bytes(damage(good, rng))
    try:
      read_weights(path).load(model)
    except InputError as error:
      assert "a.safetensors'" in str(error) and "\n" not in str(error)
      refused += 1
  assert_same(model.get_weights(), expected)
  assert refused >= least

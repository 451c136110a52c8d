"""The loops that Numba compiles have the bits of NumPy; without Numba, NumPy stays."""

import dataclasses
import sys
import threading

import numpy as np
import pytest

from flowpp_tf import compression
from flowpp_tf.compression import grids, layers, maps, portable_math
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.kernels import _AFTER, KERNELS, Kernels
from flowpp_tf.compression.stack import Stack, WindowError
from support import archives

pytestmark = pytest.mark.needs("numba")


@pytest.fixture
def loops():
  assert KERNELS.use_loops()
  yield KERNELS.loops
  KERNELS.loops = None


def in_numpy_and_in_loops(function):
  """What a function returns each way."""
  KERNELS.loops = None
  expected = function()
  assert KERNELS.use_loops()
  return expected, function()


def parameters(components, count, seed):
  """Of mixtures with weights, places and scales from all over what networks give."""
  rng = np.random.default_rng(seed)
  found = rng.normal(size=[2 + 3 * components, count]) * np.exp(2 * rng.normal(size=count))
  found[2 + 2 * components :] = rng.uniform(-12, 6, [components, count])  # log scales, some below the least
  return found, 10 * rng.normal(size=count) * np.exp(rng.normal(size=count))


@pytest.mark.parametrize("margin", [0.0, 1e-3])
@pytest.mark.parametrize("components, count", [(1, 1), (2, 255), (5, 256), (8, 257), (32, 3000), (3, 0)])
def test_mixtures_have_the_same_bits(loops, components, count, margin):
  values, y = parameters(components, count, seed=components)
  for sigma in (1e-9, 1e-3, 1.0):
    mixture = maps.Mixture(values, margin)
    results = lambda: (*mixture.forward(y), *mixture.inverse(y, sigma))  # noqa: B023
    if not count:
      assert [part.shape for part in results()] == 4 * [(0,)]
      continue
    with np.errstate(over="ignore"):  # in NumPy, of Newton steps that are not taken
      expected, found = in_numpy_and_in_loops(results)
    np.testing.assert_array_equal(found, expected)


def test_exp_has_the_same_bits_for_arrays_of_every_shape_and_order(loops):
  x = np.random.default_rng(0).uniform(-800, 800, [40, 30, 5])
  edges = np.array([0.0, -0.0, 690, -690, np.nextafter(690, 0), 1e308, -1e308, np.inf, -np.inf, 5e-324])
  for values in (x, x.T, x[::2, ::-1], edges, np.array(1.5), np.zeros([0, 3])):
    expected, found = in_numpy_and_in_loops(lambda: portable_math.exp(values))  # noqa: B023
    assert found.shape == values.shape
    np.testing.assert_array_equal(found, expected)


def test_each_kind_of_layer_has_the_same_bits(loops):
  """One by one: a product rounds most differences off."""
  rng, shape, channels = np.random.default_rng(0), (11, 7, 9), 8
  weights = {f"{name}/kernel": rng.normal(size=[3, 3, inputs, 5]) for name, inputs in (("plain", 8), ("elu", 16))}
  weights |= {
    "point/kernel": rng.normal(size=[8, 5]),
    "norm/gamma": rng.normal(size=8),
    "norm/beta": rng.normal(size=8),
  }
  weights |= {f"{name}/bias": rng.normal(size=5) for name in ("plain", "elu", "point")}
  x = 3 * rng.normal(size=[*shape, channels]) * np.exp(2 * rng.normal(size=[*shape, 1]))
  h = 3 * rng.normal(size=[*shape, 3 * channels])
  norm, kinds = layers.LayerNorm(weights, "norm"), (("plain", False), ("elu", True), ("point", False))
  functions = [lambda: layers.gated_sum(x, h[..., : 2 * channels], None), lambda: norm(x)]
  functions += [lambda: layers.largest_of_three(h)]
  for name, elu in kinds:
    functions.append(lambda product=layers.Product(weights, name), elu=elu: product(x, elu))
  for function in functions:
    np.testing.assert_array_equal(*in_numpy_and_in_loops(function))


def test_lifts_say_which_images_hold_integers_that_are_too_large():
  grid = grids.Grid.uniform((2, 2, 4), 1.0)
  lifts = grids.Lifts(grid, np.ones((2, 2, 4)), np.zeros((2, 2, 4)), np.array(2 * [[[1.0, 2.0], [3.0, 4.0]]]))
  n = np.zeros((3, 2, 2, 4), np.int64)
  n[1] = 2**62
  for function in (lifts.forward, lifts.inverse):
    with pytest.raises(WindowError) as error:
      function(n)
    assert error.value.examples.tolist() == [False, True, False]


BLOCK = "flow/0/network/block_0"
MISFITS = {  # weights that an archive's model may have; NumPy refuses some, and the others before a loop sees them
  "more inputs": ({"flow/0/network/input_conv/kernel": (3, 3, 2, 4)}, "matmul: .* mismatch"),
  "fewer inputs": ({f"{BLOCK}/conv/conv/kernel": (3, 3, 5, 4)}, "matmul: .* mismatch"),
  "more biases": ({f"{BLOCK}/conv/conv/bias": (9,)}, "conv/conv/bias has the shape"),
  "one bias": ({f"{BLOCK}/conv/conv/bias": (1,)}, "conv/conv/bias has the shape"),
  "no gate": (
    {f"{BLOCK}/conv/output_projection/kernel": (8, 6), f"{BLOCK}/conv/output_projection/bias": (6,)},
    "added with a gate has the shape",
  ),
  "no three": (
    {f"{BLOCK}/mixer/input_projection/kernel": (4, 11), f"{BLOCK}/mixer/input_projection/bias": (11,)},
    "could not be broadcast",
  ),
  "few norms": ({f"{BLOCK}/conv_norm/gamma": (3,)}, "layer norm has the shape"),
  "more mixtures": (
    {"flow/0/network/output_conv/kernel": (3, 3, 4, 22), "flow/0/network/output_conv/bias": (22,)},
    "parameters of 16 mixtures for 8 values",
  ),
  "a wide matrix": ({"flow/1/kernel": (2, 2, 1)}, "the codec model is invalid"),
  "scales of more axes": ({"flow/0/scale": (999, 1, 1, 1)}, "the codec model is invalid"),
  "embeddings of more axes": ({"flow/0/network/position_embedding": (999, 1, 1, 1)}, "more dimensions than allowed"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused(loops, misfit):
  shapes, message = MISFITS[misfit]
  model = archives.small_codec().model
  weights = {**model.weights, **{name: np.ones(shape, np.float32) for name, shape in shapes.items()}}
  model = dataclasses.replace(model, weights=weights)
  images, words = archives.example_images()[:1], np.random.default_rng(0).integers(2**32, size=4096, dtype=np.uint32)
  for use_loops in (False, True):
    KERNELS.loops = loops if use_loops else None
    with pytest.raises(ValueError, match=message):
      Codec(model).push(Stack(words, sealed=True), images)


def test_an_archive_has_the_same_bytes_and_decodes_both_ways(loops):
  plain, again = in_numpy_and_in_loops(lambda: (archives.images_archive(), archives.example_images()))
  assert again[0] == plain[0]
  np.testing.assert_array_equal(again[1], plain[1])  # of an archive that was made without them


def test_they_are_compiled_once_when_enough_values_have_come(monkeypatch):
  kernels, begun = Kernels(), []
  monkeypatch.setattr(kernels, "use_loops", lambda: begun.append(threading.get_ident()))
  kernels.count(_AFTER - 1)
  assert not begun
  for _ in range(3):
    kernels.count(_AFTER)
  assert len(begun) == 1


@pytest.mark.parametrize("why", ["no Numba", "Numba is told not to compile", "LLVM", "another machine"])
def test_without_loops_numpy_stays(monkeypatch, why):
  monkeypatch.delattr(compression, "loops", raising=False)
  if why == "no Numba":
    monkeypatch.setitem(sys.modules, "numba", None)
  if why == "Numba is told not to compile":
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
  if why == "LLVM":
    monkeypatch.delitem(sys.modules, "flowpp_tf.compression.loops", raising=False)
    monkeypatch.setattr("numba.njit", lambda *args, **options: 1 / 0)
  if why == "another machine":
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
  kernels = Kernels()
  assert not kernels.use_loops()
  assert kernels.loops is None

"""The loops that Numba compiles: the bits of NumPy, or NumPy."""

import dataclasses
import sys
import threading

import numpy as np
import pytest

from flowpp_tf import compression
from flowpp_tf.compression import compiled, exact, grids, maps, networks
from flowpp_tf.compression.bits_back_coder import BitsBackCoder
from flowpp_tf.compression.stack import Stack, WindowError
from support import archives

pytestmark = pytest.mark.needs("numba")


@pytest.fixture
def loops():
  assert compiled.use()
  yield sys.modules["flowpp_tf.compression.loops"]
  compiled.use_numpy()


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
    plain, fast = (maps.Mixture(values, margin, way) for way in (None, loops))
    if not count:
      assert [part.shape for part in (*fast.forward(y), *fast.inverse(y, sigma))] == 4 * [(0,)]
      continue
    with np.errstate(over="ignore"):  # in NumPy, of Newton steps that are not taken
      expected = *plain.forward(y), *plain.inverse(y, sigma)
    np.testing.assert_array_equal([*fast.forward(y), *fast.inverse(y, sigma)], expected)


def test_exp_has_the_same_bits_for_arrays_of_every_shape_and_order(loops):
  x = np.random.default_rng(0).uniform(-800, 800, [40, 30, 5])
  edges = np.array([0.0, -0.0, 690, -690, np.nextafter(690, 0), 1e308, -1e308, np.inf, -np.inf, 5e-324])
  for values in (x, x.T, x[::2, ::-1], edges, np.array(1.5), np.zeros([0, 3])):
    found = exact.exp(values)
    assert found.shape == values.shape
    np.testing.assert_array_equal(found, exact.exp_in_numpy(values))


@pytest.mark.parametrize("half", [1, 2, 6])
def test_lifts_have_the_same_bits_also_of_smaller_images(loops, half):
  rng, shape = np.random.default_rng(half), (4, 6, 2 * half)
  grid = grids.Grid(np.exp(rng.normal(size=shape)), rng.normal(size=shape), unit=(2, 2))
  lifts = grids.Lifts(grid, np.exp(rng.normal(size=shape)), rng.normal(size=shape), rng.normal(size=[2, half, half]))
  n = rng.integers(-(2**40), 2**40, size=(9, *shape))
  for part in (n, n[:, :2], n[:, :2, :4]):
    compiled.use_numpy()
    expected = lifts.forward(part), lifts.inverse(part)
    assert compiled.use()
    before = part.copy()
    np.testing.assert_array_equal((lifts.forward(part), lifts.inverse(part)), expected)
    np.testing.assert_array_equal(lifts.inverse(lifts.forward(part)), before)
    np.testing.assert_array_equal(part, before)


def test_lifts_say_which_images_hold_integers_that_are_too_large(loops):
  grid = grids.Grid.uniform((2, 2, 4), 1.0)
  lifts = grids.Lifts(grid, np.ones((2, 2, 4)), np.zeros((2, 2, 4)), np.array(2 * [[[1.0, 2.0], [3.0, 4.0]]]))
  n = np.zeros((3, 2, 2, 4), np.int64)
  n[1] = 2**62
  for function in (lifts.forward, lifts.inverse):
    with pytest.raises(WindowError) as error:
      function(n)
    assert error.value.examples.tolist() == [False, True, False]


BLOCK = "flow/0/network/block_0"
MISFITS = {  # weights that an archive's model may have, behind whose end a loop would read or write
  "more inputs": ({"flow/0/network/input_conv/kernel": (3, 3, 2, 4)}, "input_conv/kernel multiplies"),
  "fewer inputs": ({f"{BLOCK}/conv/conv/kernel": (3, 3, 5, 4)}, "conv/conv/kernel multiplies"),
  "more biases": ({f"{BLOCK}/conv/conv/bias": (9,)}, "conv/conv/bias has the shape"),
  "one bias": ({f"{BLOCK}/conv/conv/bias": (1,)}, "conv/conv/bias has the shape"),
  "no gate": (
    {f"{BLOCK}/conv/output_projection/kernel": (8, 6), f"{BLOCK}/conv/output_projection/bias": (6,)},
    "added with a gate has the shape",
  ),
  "no three": (
    {f"{BLOCK}/mixer/input_projection/kernel": (4, 11), f"{BLOCK}/mixer/input_projection/bias": (11,)},
    "maximum of three has the shape",
  ),
  "few norms": ({f"{BLOCK}/conv_norm/gamma": (3,)}, "layer norm has the shape"),
  "more mixtures": (
    {"flow/0/network/output_conv/kernel": (3, 3, 4, 22), "flow/0/network/output_conv/bias": (22,)},
    "parameters of 16 mixtures for 8 values",
  ),
  "a wide matrix": ({"flow/1/kernel": (2, 2, 1)}, "1x1 convolution has the shape"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused_before_a_loop_sees_them(loops, misfit):
  shapes, message = MISFITS[misfit]
  model = archives.coder().model
  weights = {**model.weights, **{name: np.ones(shape, np.float32) for name, shape in shapes.items()}}
  model = dataclasses.replace(model, weights=weights)
  images, words = archives.example_images()[:1], np.random.default_rng(0).integers(2**32, size=4096, dtype=np.uint32)
  for use in (compiled.use_numpy, compiled.use):
    use()
    with pytest.raises(ValueError, match=message):
      BitsBackCoder(model, networks.PortableNetworks(model)).push(Stack(words, sealed=True), images)


def test_an_archive_has_the_same_bytes_and_decodes_both_ways():
  images = archives.example_images()
  plain = archives.images_archive()
  assert compiled.use()
  try:
    assert archives.images_archive() == plain
    np.testing.assert_array_equal(archives.example_images(), images)  # an archive of version 1, made without them
  finally:
    compiled.use_numpy()


def test_they_are_compiled_once_when_enough_values_have_come(monkeypatch):
  begun = []
  monkeypatch.setattr(compiled, "use", lambda: begun.append(threading.get_ident()))
  monkeypatch.setattr(compiled, "_counted", 0)
  compiled.after(compiled._AFTER - 1)
  assert not begun
  for _ in range(3):
    compiled.after(compiled._AFTER)
  assert len(begun) == 1


RESULTS = {  # of the loops, by module: which argument is changed
  "loops": dict(exp=-1, logit_cdf=-1, quantile=-1),
  "layer_loops": dict(round_inputs=-1, add_products=-1, gated_sum=-1, layer_norm=-1, largest_of_three=-1),
  "grid_loops": dict(lift=0),
}


@pytest.mark.parametrize("module, name, result", [(m, *pair) for m in RESULTS for pair in RESULTS[m].items()])
def test_a_loop_with_other_bits_is_not_used(loops, monkeypatch, module, name, result):
  compiled.use_numpy()
  module = sys.modules[f"flowpp_tf.compression.{module}"]
  right = getattr(module, name)

  def wrong(*arguments):
    returned, changed = right(*arguments), arguments[result].reshape(-1)
    middle = len(changed) // 2  # the first and the last may be padding
    changed[middle] = changed[middle] + 1 if name in ("lift", "round_inputs") else np.nextafter(changed[middle], 9)
    return returned

  monkeypatch.setattr(module, name, wrong)
  assert not compiled.use()
  assert (maps._loops, networks._loops, grids._loops, exact._compiled_exp) == (None, None, None, None)


def test_a_numba_that_cannot_compile_them_is_not_used(loops, monkeypatch):
  compiled.use_numpy()

  def broken(*arguments):
    raise RuntimeError("LLVM")

  monkeypatch.setattr(loops, "quantile", broken)
  assert not compiled.use()
  assert maps._loops is None


def test_numba_that_is_told_not_to_compile_is_not_used(loops, monkeypatch):
  compiled.use_numpy()
  monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
  assert not compiled.use()
  assert maps._loops is None


def test_without_numba_numpy_stays(monkeypatch):
  monkeypatch.delattr(compression, "loops", raising=False)
  monkeypatch.setitem(sys.modules, "flowpp_tf.compression.loops", None)
  assert not compiled.use()
  assert maps._loops is None

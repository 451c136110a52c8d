"""The codec's mathematics: exact functions, maps, grids, networks, the stack, and a batch of images on it."""

import dataclasses
import functools
import hashlib
import json

import hypothesis
from hypothesis import strategies as st
import keras
import mpmath
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.bijectors import affine_coupling_bijector, mixture_logistic_coupling_bijector
from flowpp_tf.compression import maps, portable_math
from flowpp_tf.compression.codec import STEP, Codec
from flowpp_tf.compression.description import CodecModel
from flowpp_tf.compression.grids import Grid, Lifts
from flowpp_tf.compression.kernels import KERNELS
from flowpp_tf.compression.networks import Networks
from flowpp_tf.compression.stack import EmptyStackError, Normal, Stack, Uniform, WindowError
from flowpp_tf.compression.steps import SIGMA, Bijection, BitsBack, Coupling, Inverse, Prior, Sequence
from flowpp_tf.core.context import EvalContext
from support.marks import quick_rows, slow
from support.models import VARIANTS, perturb, small_images

pytestmark = pytest.mark.needs("constriction")

RNG = np.random.default_rng


# --- portable_math.py ---------------------------------------------------------------------------


@pytest.mark.parametrize(
  "ours, truth, x",
  [
    (portable_math.exp, mpmath.exp, np.concatenate([np.linspace(-689, 689, 300), RNG(0).normal(size=300)])),
    (portable_math.log, mpmath.log, np.exp(np.linspace(-600, 600, 600))),
    (lambda x: portable_math.sigmoids(x)[0], lambda x: 1 / (1 + mpmath.exp(-x)), np.linspace(-300, 40, 600)),
    (portable_math.tanh, mpmath.tanh, np.linspace(-20, 20, 600)),
  ],
)
def test_functions_are_accurate(ours, truth, x):
  expected = np.array([float(truth(mpmath.mpf(v))) for v in x])
  np.testing.assert_allclose(ours(x), expected, rtol=2e-12, atol=1e-15)


def test_functions_give_the_bits_that_every_machine_gives():
  # If this hash changes, archives can no longer be decoded.
  x = np.concatenate([np.linspace(-700, 700, 20001), np.arange(-2000, 2000) / 64])
  values = [
    portable_math.exp(x),
    portable_math.log(np.abs(x) + 2.0**-20),
    portable_math.sigmoids(x)[0],
    portable_math.tanh(x),
    portable_math.concat_elu(x),
  ]
  digest = hashlib.sha256(np.concatenate(values).tobytes()).hexdigest()
  assert digest.startswith("1fb535d9966881decbb5e2b44089add8")


def test_a_sum_does_not_depend_on_the_layout():
  x = RNG(0).normal(size=(7, 5, 4))
  np.testing.assert_array_equal(portable_math.total(x, axis=1), portable_math.total(np.asfortranarray(x), axis=1))
  np.testing.assert_allclose(portable_math.total(x, axis=-1), x.sum(axis=-1), rtol=0, atol=1e-14)


# --- maps.py ------------------------------------------------------------------------------------


def mixture_parameters(components=4, seed=0, shape=(3, 2, 2, 4)):
  parameters = 2 * RNG(seed).normal(size=(*shape, 2 + 3 * components))
  return parameters.reshape(*shape[:-1], -1)


@pytest.mark.parametrize("seed, margin", [(0, 0.0), (1, 0.0), (2, 0.0), (0, 0.05)])
def test_the_mixture_is_that_of_the_bijector(seed, margin):
  parameters, x = mixture_parameters(seed=seed), 3 * RNG(seed).normal(size=(3, 2, 2, 4))
  bijector = mixture_logistic_coupling_bijector(tf.constant(parameters), 4, margin=margin)
  if margin:  # of values further out a grid keeps nothing
    cdf = tf.sigmoid(bijector.bijectors[-1].forward(tf.constant(x))).numpy()
    x = np.where(np.minimum(cdf, 1 - cdf) > 1e-5, x, tf.reduce_mean(bijector.bijectors[-1].loc, axis=-1))
  check_map(maps.MixtureLogistic(parameters, 4, margin=margin), bijector, x)


def test_at_the_ends_of_a_margin_x_may_be_anywhere_beyond():
  parameters = mixture_parameters(shape=(1, 1, 1, 3))
  elementwise = maps.MixtureLogistic(parameters, 4, margin=0.05)
  y, slope = elementwise.forward(np.full((1, 1, 1, 3), 1e3) * [-1, 0, 1])
  assert np.isfinite(y).all() and (slope > 0).all()
  for beyond in (0.0, 1e-7, 1.0, 1e6):
    x, slope = elementwise.inverse(y + beyond * np.array([-1, 0, 1]), SIGMA)
    scales = SIGMA / np.sqrt(slope)  # the standard deviation of x
    assert np.isfinite(x).all() and (scales[..., ::2] > 1e-2).all() and (scales < 1e3).all()


def test_the_affine_map_is_that_of_the_bijector():
  parameters, x = 2 * RNG(0).normal(size=(3, 2, 2, 8)), RNG(1).normal(size=(3, 2, 2, 4))
  check_map(maps.BoundedAffine(parameters), affine_coupling_bijector(tf.constant(parameters)), x)


@pytest.mark.parametrize(
  "elementwise, bijector, x",
  [
    (maps.Sigmoid(STEP), fpp.bijectors.Sigmoid(), np.linspace(-9, 9, 50)[None]),
    (maps.PixelsToLogit(17, 0.05), fpp.bijectors.PixelsToLogit(17), np.linspace(0, 17, 50)[None]),
  ],
)
def test_the_ends_are_those_of_the_bijectors(elementwise, bijector, x):
  check_map(elementwise, bijector, x)


def check_map(elementwise, bijector, x):
  y, slope = elementwise.forward(x)
  np.testing.assert_allclose(y, bijector.forward(tf.constant(x)), rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(np.log(slope), bijector.forward_log_det_jacobian(tf.constant(x), 0), atol=1e-9)
  back, slope_there = elementwise.inverse(y, SIGMA)
  assert (np.abs(back - x) * np.sqrt(slope) / SIGMA).max() < 0.02  # of the noise's standard deviation
  np.testing.assert_allclose(slope_there, slope, rtol=0.05)


# --- grids.py -----------------------------------------------------------------------------------


@hypothesis.given(half=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 40))
def test_lifts_are_inverted_to_the_last_bit(half, seed, bits):
  rng = RNG(seed)
  shape = (4, 6, 2 * half)
  scale = STEP * np.exp(rng.normal(size=shape)) * rng.choice([-1, 1], size=shape)
  grid = Grid(scale, rng.normal(size=shape), unit=(2, 2))
  lifts = Lifts(grid, np.exp(rng.normal(size=shape)), rng.normal(size=shape), rng.normal(size=(2, half, half)))
  n = rng.integers(-(2**bits), 2**bits, size=(4, *shape))
  for part in (n, n[:, :2], n[:, :2, :4]):  # of smaller images, too
    before = part.copy()
    np.testing.assert_array_equal(lifts.inverse(lifts.forward(part)), before)
    np.testing.assert_array_equal(lifts.forward(lifts.inverse(part)), before)
    np.testing.assert_array_equal(part, before)


@pytest.mark.parametrize("half", [1, 2, 6])
def test_lifts_are_act_norm_and_convolution(half):
  rng = RNG(half)
  shape = (2, 3, 2 * half)
  grid = Grid(STEP * np.exp(rng.normal(size=shape)), rng.normal(size=shape))
  scale, bias = np.exp(rng.normal(size=shape)), rng.normal(size=shape)
  kernel = np.linalg.qr(rng.normal(size=(2, half, half)))[0]
  lifts = Lifts(grid, scale, bias, kernel)
  n = rng.integers(-(2**18), 2**18, size=(5, *shape))
  chain = fpp.bijectors.Chain([fpp.bijectors.Invertible1x1Conv(kernel), fpp.bijectors.ActNorm(scale, bias)])
  expected = chain.forward(tf.constant(grid.values(n)))
  # Each lift rounds by half a step, which the following ones may enlarge.
  np.testing.assert_allclose(lifts.grid.values(lifts.forward(n)), expected, rtol=0, atol=300 * STEP)


# --- networks.py --------------------------------------------------------------------------------


@functools.cache
def networks_of_variant(name):
  keras.utils.set_random_seed(0)
  model = fpp.FlowPlusPlus(dataclasses.replace(VARIANTS[name], dropout=0.0, dtype="float64"))
  model.initialize(small_images(32, model.config))
  codec_model = CodecModel.from_model(perturb(model, 0.02))
  return model, codec_model, Networks(codec_model)


def parts(model):
  yield "flow", model.coupling_flow, None
  for name in ("dequantizer", "augmenter"):
    part = getattr(model, name)
    if hasattr(part, "coupling_flow"):
      yield name, part.coupling_flow, part.context_net


@pytest.mark.parametrize("name", quick_rows(VARIANTS, ["published"]))
def test_fixed_point_networks_are_those_of_the_model(name):
  model, _, networks = networks_of_variant(name)
  for part, flow, context_net in parts(model):
    context = None
    if context_net is not None:
      images = small_images(5, model.config) if part == "dequantizer" else RNG(0).normal(size=(5, 4, 4, 2))
      context = networks.context(part, images)
      np.testing.assert_allclose(context, context_net(tf.constant(images, tf.float64)), rtol=0, atol=2e-3)
    for i, step in enumerate(flow.steps):
      x = RNG(i).normal(size=(5, *step.conditioner.image_shape))
      expected = step.conditioner(tf.constant(x), ctx=EvalContext(condition=context))
      np.testing.assert_allclose(networks.conditioner(part, i, x, context), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["published", "imagenet32"])
def test_fixed_point_networks_give_an_image_the_same_bits_in_any_batch(name):
  model, _, networks = networks_of_variant(name)
  x = RNG(0).normal(size=(9, *model.coupling_flow.steps[0].conditioner.image_shape))
  whole = networks.conditioner("flow", 0, x, None)
  np.testing.assert_array_equal(whole[4:5], networks.conditioner("flow", 0, x[4:5], None))
  np.testing.assert_array_equal(whole[::-1], networks.conditioner("flow", 0, x[::-1], None))


def test_products_are_exact():
  """The sum of a product in float64 equals that of Python's integers."""
  _, codec_model, networks = networks_of_variant("imagenet32")
  product = networks._conditioners["flow"][0]._blocks[0].conv
  kernel = product.weights.reshape(-1, product.weights.shape[-1])
  assert np.abs(kernel).sum(axis=0).max() <= 2.0**25
  assert np.array_equal(kernel, np.rint(kernel)) and np.abs(kernel).max() > 2**10
  x = RNG(0).integers(-(2**27), 2**27, size=(1, 3, 3, kernel.shape[0] // 9)) / 2.0**16
  patch = (x[0].transpose(0, 1, 2).reshape(-1) * 2**16).astype(int).tolist()
  total = sum(a * int(b) for a, b in zip(patch, kernel[:, 0]))
  expected = total / 2.0 ** (16 + product.fraction) + product.bias[0]
  assert product(x)[0, 1, 1, 0] == expected
  if KERNELS.use_loops():
    in_loops = product(x)
    KERNELS.loops = None
    assert in_loops[0, 1, 1, 0] == expected


@pytest.mark.needs("numba")
@pytest.mark.parametrize("name", ["published", "imagenet32", *map(slow, ["imagenet64", "no_attention"])])
def test_compiled_networks_have_the_same_bits(monkeypatch, name):
  monkeypatch.setattr(KERNELS, "loops", None)
  _, _, networks = networks_of_variant(name)
  images = RNG(0).integers(0, 4, size=(37, *networks_of_variant(name)[0].config.image_shape))
  context = networks.context("dequantizer", images)
  network = networks._conditioners["dequantizer"][0]
  x = 3 * RNG(1).normal(size=(37, *context.shape[1:3], images.shape[-1])) * np.exp(RNG(2).normal(size=(37, 1, 1, 1)))
  assert KERNELS.use_loops()
  np.testing.assert_array_equal(networks.context("dequantizer", images), context)
  for given in (x, x[:1], np.asfortranarray(x)):
    here = context[: len(given)]
    KERNELS.loops = None
    expected = network(given, here)
    assert KERNELS.use_loops()
    np.testing.assert_array_equal(network(given, here), expected)


def test_the_hash_of_a_model_stays_the_same():
  """Archives name their model by it."""
  model = CodecModel.from_model(fpp.FlowPlusPlus.from_preset("digits"))
  assert model.sha256()[:16] == "4e1e8f4ac05efc77"


def test_the_model_comes_back_from_its_bytes():
  _, codec_model, _ = networks_of_variant("augmented")
  again = CodecModel.from_bytes(codec_model.to_bytes())
  assert again.sha256() == codec_model.sha256() and again.description == codec_model.description
  assert codec_model.description["augmenter"]["flow"] and codec_model.description["augmenter"]["context"]
  for damaged in (b"", b"PK\x03\x04", codec_model.to_bytes()[:1000]):
    with pytest.raises(fpp.InputError, match="codec model cannot be read"):
      CodecModel.from_bytes(damaged)


# --- stack.py -----------------------------------------------------------------------------------


def full_stack(words=20000, seed=0):
  return Stack(RNG(seed).integers(0, 2**32, words, dtype=np.uint32), sealed=True)


@pytest.mark.parametrize("noise", [False, True])
def test_what_is_pushed_is_popped_and_the_rest_is_as_before(noise):
  stack, rng = full_stack(), RNG(1)
  before = stack.words()
  std = np.exp2(rng.uniform(-12, 18, size=(6, 50)))
  mean = rng.normal(size=(6, 50)) * 1e6
  n = np.rint(mean + std * rng.normal(size=(6, 50))).astype(np.int64)
  normal = Normal(mean, std, noise)
  normal.push(stack, n)
  np.testing.assert_array_equal(normal.pop(stack), n)
  np.testing.assert_array_equal(stack.words(), before)
  popped = normal.pop(stack)
  normal.push(stack, popped)
  np.testing.assert_array_equal(stack.words(), before)
  assert np.array_equal(stack.initial_words(), full_stack().initial_words())


def test_bounded_integers_stay_in_their_bounds_and_come_back():
  stack, rng = full_stack(60000), RNG(1)
  before = stack.words()
  mean = np.concatenate([rng.uniform(-0.5, 40, 2000), rng.uniform(65495, 65535.5, 2000), rng.uniform(0, 65535, 2000)])
  std = np.exp2(rng.uniform(-8, 6, 6000))
  normal = Normal(mean, std, noise=True, size=1 << 16)
  n = normal.pop(stack)
  assert n.min() >= 0 and n.max() < 1 << 16 and (np.abs(n - mean) <= 22 * np.maximum(std, 0.5)).all()
  normal.push(stack, n)
  np.testing.assert_array_equal(stack.words(), before)


def test_popped_noise_is_normal():
  n = Normal(np.full(40000, 0.3), np.full(40000, 500.0), noise=True).pop(full_stack(60000))
  assert abs(n.mean() - 0.3) < 4 * 500 / 200 and abs(n.std() / 500 - 1) < 0.02
  # Of 13,000 draws one comes from anywhere in the window.
  assert np.sort(np.abs(n))[-20] < 5 * 500 and np.abs(n).max() < 11 * 500


def test_an_integer_costs_its_information():
  stack, rng = full_stack(), RNG(0)
  n = np.rint(300 * rng.normal(size=5000)).astype(np.int64)
  before = stack.num_bits
  Normal(np.zeros(5000), np.full(5000, 300.0)).push(stack, n)
  information = np.sum(0.5 * (n / 300) ** 2 + np.log(300 * np.sqrt(2 * np.pi))) / np.log(2)
  assert abs(stack.num_bits - before - information) / 5000 < 0.002


def test_what_is_out_of_the_window_is_named_and_leaves_the_stack_alone():
  stack = full_stack()
  before = stack.words()
  n = np.zeros((3, 4), np.int64)
  n[1, 2] = 10**6
  with pytest.raises(WindowError) as error:
    Normal(np.zeros((3, 4)), np.full((3, 4), 5.0)).push(stack, n)
  assert error.value.examples.tolist() == [False, True, False]
  with pytest.raises(WindowError) as error:
    Normal(np.array([[5.0], [0.0]]), np.ones((2, 1)), True, 1 << 16).push(stack, np.array([[5], [-1]]))
  assert error.value.examples.tolist() == [False, True]
  np.testing.assert_array_equal(stack.words(), before)


def test_an_empty_stack_says_so():
  with pytest.raises(EmptyStackError):
    Normal(np.zeros(100), np.full(100, 1000.0)).pop(full_stack(10))


# --- steps.py -----------------------------------------------------------------------------------


def test_a_sequence_is_undone_step_by_step_and_draws_cost_no_bits():
  stack, n = full_stack(), RNG(1).integers(0, 50, size=(5, 6))
  before = stack.words()
  draw = BitsBack(
    lambda x: Prior(lambda count: Normal(x + 0.5, 9.0, noise=True)),
    lambda x, u: np.concatenate([x, u], axis=-1),
    lambda y: (y[:, :6], y[:, 6:]),
  )
  shift = Bijection(lambda x: x + 3, lambda y: y - 3)
  coupling = Coupling(lambda kept: Sequence([shift, Bijection(lambda x: x + kept, lambda y: y - kept)]))
  prior = Prior(lambda count: Uniform(1 << 10, (count, 12)))
  sequence = Sequence([draw, Bijection(lambda x: x + 200, lambda y: y - 200), coupling, Inverse(shift), prior])
  assert sequence.push(stack, n) == 5
  # 12 values of 10 bits for each example; 6 of them bring log2(9 sqrt(2 pi e)) bits back, up to what this draw has.
  bits = stack.num_bits - Stack(before, sealed=False).num_bits
  assert abs(bits / 5 - (120 - 6 * np.log2(9 * np.sqrt(2 * np.pi * np.e)))) < 8
  np.testing.assert_array_equal(sequence.pop(stack, 5), n)
  np.testing.assert_array_equal(stack.words(), before)
  np.testing.assert_array_equal(Inverse(Inverse(coupling)).push(stack, n), coupling.push(stack, n))


# --- codec.py -----------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
  """The noise that has been popped under the priors of posteriors, in the order of the encoder."""
  values, pop = [], Prior.pop

  def pop_and_keep(self, stack, count):
    n = pop(self, stack, count)
    values.append((n + 0.5 * isinstance(self.distribution(count), Uniform)) * STEP)
    return n

  monkeypatch.setattr(Prior, "pop", pop_and_keep)
  return values


@pytest.mark.parametrize("name", quick_rows(VARIANTS, ["published"]))
def test_images_come_back_and_cost_their_bound(name, drawn):
  model, codec_model, networks = networks_of_variant(name)
  codec, images = Codec(codec_model), small_images(60, model.config)
  overheads = []
  for seed in range(7):
    drawn.clear()
    stack = full_stack(seed=seed)
    before, words = stack.num_bits, stack.words()
    codec.push(stack, images)
    bits, noise = stack.num_bits - before, np.concatenate(drawn, axis=-1)
    overheads.append(bits / images.size - model.bits_per_dim(images, noise=noise).numpy().mean())
    np.testing.assert_array_equal(codec.pop(stack, len(images)), images)
    np.testing.assert_array_equal(stack.words(), words)
  # Net bits are those of the bound with the same noise, but for what is drawn from anywhere in a window (the median)
  # and the noise of the other draws, some 20 a dimension.
  assert abs(np.median(overheads)) < 0.004


@pytest.mark.parametrize("name", ["published", "augmented"])
def test_a_model_without_margin_is_described_as_before(name):
  """The hash of its description names it in archives."""
  _, codec_model, _ = networks_of_variant(name)
  text = json.dumps(codec_model.description)
  assert "margin" not in text and '"end"' not in text

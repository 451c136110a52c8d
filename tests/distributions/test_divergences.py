"""Divergences, entropies, moments, CDFs and quantized flows: the right number, or an error that there is none.

The truths are TFP's own distributions that a flow equals, the CDF of a mixture of logistics, and integrals on a grid.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from support.bijector_cases import draw
from support.distribution_cases import NORMAL, mixture_of_logistics
from support.models import SMALL, perturb, perturbed, small_config, small_images

tfb, tfd = tfp.bijectors, tfp.distributions
fb, FlowDistribution = fpp.bijectors, fpp.distributions.FlowDistribution
SEED = tf.constant([0, 1])
A, B = draw(4, 3, seed=0), draw(4, 3, seed=1)


@pytest.fixture(scope="module")
def flow():
  keras.utils.set_random_seed(0)
  sizes = dict(context_size=3, couplings=2, components=2, hidden=4, blocks=1)
  return perturb(fpp.vector_flow(2, **sizes, dtype="float64"), 0.5)


VARIABLE = tf.Variable(A)
EQUAL = [(A, A), (A, tf.identity(A)), (A, A.numpy()), (A.numpy(), A.numpy()), (VARIABLE, VARIABLE)]
# Two variables may differ later.
DIFFERENT = [(A, B), (A.numpy(), B.numpy()), (A, A[0]), (A, A + 1e-15), (VARIABLE, tf.Variable(A)), (VARIABLE, A)]


@pytest.mark.parametrize("a, b", EQUAL)
def test_contexts_of_equal_values_are_the_same_distribution(flow, a, b):
  divergence = tfd.kl_divergence(flow.given(a), flow.given(b))
  np.testing.assert_array_equal(divergence, np.zeros(4))
  np.testing.assert_array_equal(flow.given(a).kl_divergence(flow.given(b)), np.zeros(4))


@pytest.mark.parametrize("a, b", DIFFERENT)
def test_the_divergence_between_contexts_is_not_that_of_the_bases(flow, a, b):
  p, q = flow.given(a), flow.given(b)
  transformed = tfd.TransformedDistribution(q.distribution, q.bijector)
  for one, other in ((p, q), (q, p), (p, flow), (flow, q), (p, transformed), (transformed, p)):
    with pytest.raises(NotImplementedError, match="bijectors, or the contexts of these, differ.*estimate it"):
      tfd.kl_divergence(one, other)
  with pytest.raises(NotImplementedError):
    p.cross_entropy(q)
  wrapped = (lambda d: tfd.Sample(d, 2), lambda d: tfd.JointDistributionSequential([d]))
  for wrap in wrapped + ((lambda d: tfd.Independent(d, 1),) if p.batch_shape == q.batch_shape else ()):
    with pytest.raises(NotImplementedError):
      tfd.kl_divergence(wrap(p), wrap(q))


def test_contexts_in_a_graph_are_equal_if_they_are_one_tensor(flow):
  divergence = lambda a, b: tfd.kl_divergence(flow.given(a), flow.given(b))
  np.testing.assert_array_equal(tf.function(lambda a: divergence(a, a), autograph=False)(A), np.zeros(4))
  for b in (A, B):
    with pytest.raises(NotImplementedError, match="different tensors of a graph"):
      tf.function(divergence, autograph=False)(A, b)


def test_a_slice_has_the_divergence_of_its_contexts(flow):
  p = flow.given(A)
  np.testing.assert_array_equal(tfd.kl_divergence(p[1:], flow.given(A[1:])), np.zeros(3))
  with pytest.raises(NotImplementedError):
    tfd.kl_divergence(p[1:], p[:3])


def test_an_array_that_changes_later_is_not_the_same_context(flow):
  context = A.numpy().copy()
  p = flow.given(context)
  context += 1
  q = flow.given(context)
  assert np.all(p.log_prob(tf.zeros([2], tf.float64)) != q.log_prob(tf.zeros([2], tf.float64)))
  with pytest.raises(NotImplementedError):
    tfd.kl_divergence(p, q)


def test_the_divergence_under_a_common_bijector_is_that_of_the_bases(flow):
  bijector = flow.given(A).bijector
  bases = [tfd.Sample(tfd.Normal(tf.constant(loc, tf.float64), scale), 2) for loc, scale in ((0.0, 1.0), (0.3, 2.0))]
  p, q = (FlowDistribution(base, bijector) for base in bases)
  expected = np.full(4, tfd.kl_divergence(*bases))
  np.testing.assert_allclose(tfd.kl_divergence(p, q), expected, rtol=1e-12)
  for one, other in ((p, q), (p, tfd.TransformedDistribution(bases[1], bijector))):
    np.testing.assert_allclose(tfd.kl_divergence(one, other), expected, rtol=1e-12)
  with pytest.raises(ValueError, match="sample_shape"):
    tfd.kl_divergence(p, FlowDistribution(tfd.Sample(NORMAL, 4), bijector))


def test_the_estimate_that_the_error_names_is_the_integral(flow):
  p, q = flow.given(A), flow.given(B)
  points = np.linspace(-8, 8, 161)
  grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 1, 2)
  log_p, log_q = p.log_prob(grid), q.log_prob(grid)
  integral = np.sum(np.exp(log_p) * (log_p - log_q), axis=0) * (points[1] - points[0]) ** 2
  estimate = tfp.vi.monte_carlo_variational_loss(q.log_prob, p, sample_size=1000, seed=SEED)
  x = p.sample(1000, seed=SEED)
  error = np.std(p.log_prob(x) - q.log_prob(x), axis=0) / np.sqrt(1000)
  assert np.all(integral > 5 * error) and np.all(np.abs(estimate - integral) < 5 * error)


LOC, SCALE = draw(2, 2, seed=2), tf.exp(draw(2, 2, seed=3))
OTHER = tfd.Independent(tfd.Normal(LOC + 1, 2 * SCALE), 1)
FACTOR, SHIFT = tf.exp(draw(2, seed=4)), draw(2, seed=5)
KERNEL, LOWER_UPPER = draw(2, 2, seed=6), draw(2, 2, seed=7)
PRODUCT = np.tril(LOWER_UPPER, -1) + np.eye(2)
PRODUCT @= np.triu(LOWER_UPPER, 1) + np.diag(np.exp(np.diag(LOWER_UPPER)))
BASE = tfd.Independent(tfd.Normal(LOC, SCALE), 1)


def of_matrix(matrix, shift=0.0):
  """The normal distribution of x W + b, x of `BASE`."""
  covariance = tf.einsum("ji,bj,jk->bik", matrix, SCALE**2, matrix)
  return tfd.MultivariateNormalTriL(LOC @ matrix + shift, tf.linalg.cholesky(covariance))


# Affine flows, and the normal distributions that they are.
AFFINE = {
  "act_norm": (fb.ActNorm(FACTOR, SHIFT), of_matrix(tf.linalg.diag(FACTOR), SHIFT)),
  "affine": (fb.BoundedAffine(SHIFT, FACTOR), of_matrix(tf.linalg.diag(tf.exp(tf.tanh(SHIFT))), FACTOR)),
  "linear": (fb.Invertible1x1Conv(KERNEL, event_ndims=1), of_matrix(KERNEL)),
  "linear_lu": (fb.Invertible1x1ConvLU(LOWER_UPPER, event_ndims=1), of_matrix(PRODUCT)),
  "swap": (fb.SwapHalves(), of_matrix(tf.reverse(tf.eye(2, dtype=tf.float64), [0]))),
  "chain": (
    fb.Chain([fb.SwapHalves(), fb.ActNorm(FACTOR, SHIFT), fb.Invertible1x1Conv(KERNEL, event_ndims=1)]),
    of_matrix(tf.reverse(KERNEL * FACTOR, [1]), tf.reverse(SHIFT, [0])),
  ),
  "invert": (fb.Invert(fb.ActNorm(FACTOR, SHIFT)), of_matrix(tf.linalg.diag(1 / FACTOR), -SHIFT / FACTOR)),
}
affine_rows = pytest.mark.parametrize("name", AFFINE)


@affine_rows
def test_entropy_and_cross_entropy_of_affine_flows_are_those_of_normal_distributions(name):
  bijector, truth = AFFINE[name]
  p, q = FlowDistribution(BASE, bijector), FlowDistribution(OTHER, bijector)
  np.testing.assert_allclose(p.entropy(), truth.entropy(), rtol=1e-10)
  np.testing.assert_allclose(p.cross_entropy(q), truth.entropy() + tfd.kl_divergence(BASE, OTHER), rtol=1e-10)
  np.testing.assert_allclose(p.log_prob(LOC), truth.log_prob(LOC), rtol=1e-10)


@affine_rows
def test_moments_of_affine_flows_are_those_of_normal_distributions_or_there_are_none(name):
  bijector, truth = AFFINE[name]
  bases = {"independent": BASE, "mvn": tfd.MultivariateNormalDiag(LOC, SCALE)}
  found = set()
  for base in bases.values():
    flow = FlowDistribution(base, bijector)
    for statistic in ("mean", "mode", "stddev", "variance", "covariance"):
      try:
        value = getattr(flow, statistic)()
      except NotImplementedError:
        continue
      np.testing.assert_allclose(value, getattr(truth, statistic)(), rtol=1e-10, err_msg=statistic)
      found.add(statistic)
  assert {"mean", "mode"} <= found


def test_the_entropy_of_a_flow_whose_log_det_lacks_a_batch_has_the_batch():
  flow = FlowDistribution(tfd.Sample(NORMAL, 2), fb.Conditioned(fb.ActNorm(FACTOR, SHIFT), draw(5, 1, seed=0)))
  expected = np.full(5, 2 * NORMAL.entropy() + np.sum(np.log(FACTOR)))
  np.testing.assert_allclose(flow.entropy(), expected)
  np.testing.assert_allclose(flow.cross_entropy(flow), expected)


def test_what_has_no_closed_form_is_not_implemented(flow):
  given = flow.given(A)
  for statistic in ("mean", "mode", "stddev", "variance", "covariance", "entropy"):
    with pytest.raises(NotImplementedError, match=statistic):
      getattr(given, statistic)()
  x = tf.zeros([4, 2], tf.float64)
  for function in ("cdf", "log_cdf", "survival_function", "log_survival_function", "quantile"):
    with pytest.raises(NotImplementedError):
      getattr(given, function)(x)


def test_scalar_flows_have_the_cdf_of_their_mixture_and_so_do_quantized_ones():
  flow = mixture_of_logistics()
  cdf = flow.bijector.bijector.forward
  x = tf.constant(np.linspace(-3, 3, 7)[:, np.newaxis] * [1, 1])
  np.testing.assert_allclose(flow.cdf(x), cdf(x), rtol=1e-12)
  np.testing.assert_allclose(flow.survival_function(x), 1 - cdf(x), rtol=1e-10)
  np.testing.assert_allclose(flow.quantile(cdf(x)), x, atol=1e-9)
  integers = tf.constant(np.arange(-60.0, 61)[:, np.newaxis] * [1, 1])
  for low, high in ((None, None), (-2.0, 3.0)):
    quantized = tfd.QuantizedDistribution(flow, low=low, high=high)
    mass = quantized.prob(integers)
    total = (cdf(integers) - cdf(integers[:1] - 1))[-1] if low is None else [1, 1]
    np.testing.assert_allclose(tf.reduce_sum(mass, axis=0), total, rtol=1e-9)
    np.testing.assert_allclose(np.exp(quantized.log_prob(integers[58:64])), mass[58:64], rtol=1e-9)
    np.testing.assert_allclose(mass[59:62], (cdf(integers) - cdf(integers - 1))[59:62], rtol=1e-9)
    drawn = quantized.sample(4000, seed=SEED).numpy()
    np.testing.assert_allclose([np.mean(drawn[:, i] == 0, axis=0) for i in range(2)], mass[60], atol=0.03)


@pytest.mark.parametrize(
  "base, bijector, function",
  [
    (tfd.Sample(NORMAL, 2), fb.SwapHalves(), "log_prob"),
    (BASE, fb.SwapHalves(), "log_prob"),
    (BASE, fb.ActNorm(FACTOR, SHIFT), "log_prob"),
    (BASE, fb.ActNorm(FACTOR, SHIFT), "prob"),
    (BASE, fb.Chain([tfb.Scale(-FACTOR)]), "prob"),
  ],
)
def test_a_quantized_flow_of_vectors_is_not_implemented(base, bijector, function):
  """The mass of a box is not the difference of two values of a joint CDF."""
  quantized = tfd.QuantizedDistribution(FlowDistribution(base, bijector), low=-3.0)
  with pytest.raises(NotImplementedError):
    getattr(quantized, function)(tf.zeros([2], tf.float64))


def test_a_decreasing_flow_of_vectors_has_no_cdf_in_closed_form():
  """P(all -X_i <= y_i) is not 1 - P(all X_i <= -y_i)."""
  with pytest.raises(NotImplementedError):
    FlowDistribution(BASE, tfb.Scale(-FACTOR)).cdf(LOC)


@pytest.mark.parametrize(
  "base, bijector",
  [
    (tfd.Normal(LOC, SCALE), fb.Invertible1x1Conv(KERNEL, event_ndims=1)),
    (tfd.Normal(LOC, SCALE), fb.SwapHalves()),
    (tfd.MultivariateNormalDiag(draw(3, 2, 2, seed=0), SCALE), fb.Invertible1x1Conv(KERNEL)),
  ],
)
def test_a_base_of_too_few_event_dimensions_is_an_error(base, bijector):
  """It would add the log-det of an image to the density of each of a batch of vectors."""
  with pytest.raises(fpp.InputError, match="`distribution` must have an event of . dimensions, as `bijector` has, got"):
    FlowDistribution(base, bijector)


def test_uniform_noise_has_density_one_and_passes_through():
  model = fpp.FlowPlusPlus(small_config(SMALL, dequantization="uniform"))
  q = model.dequantizer.posterior(small_images())
  noise = model.sample_noise([6], tf.constant([0, 1]))
  u, log_q = q.transform(noise)
  np.testing.assert_array_equal(u, noise)
  np.testing.assert_array_equal(log_q, np.zeros(6))
  assert q.batch_shape == (6,) and q.event_shape == (4, 4, 2)


def test_variational_density_integrates_to_one():
  # Over an event of two pixels, so small that the midpoint rule can cover it.
  config = small_config(
    SMALL, image_shape=(1, 2, 1), structure="columns:1", dequant_structure="columns:2", dtype="float64"
  )
  model = perturbed(config, 0.2)
  q = model.dequantizer.posterior(small_images(1, config))
  points = (np.arange(200) + 0.5) / 200
  grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 1, 1, 2, 1)
  total = np.mean(np.exp(q.log_prob(grid)))
  np.testing.assert_allclose(total, 1.0, atol=5e-3)


def test_variational_noise_depends_on_the_image_and_its_density_on_the_draw(small_model):
  images = small_images()
  q = small_model.dequantizer.posterior(images)
  u, log_q = q.transform(small_model.sample_noise([6], tf.constant([0, 1])))
  assert 0 < np.min(u) and np.max(u) < 1
  np.testing.assert_allclose(q.log_prob(u), log_q, rtol=1e-6)
  other = small_model.dequantizer.posterior(7 - images)
  assert np.max(np.abs(other.log_prob(u) - log_q)) > 1e-3


def test_noise_never_rounds_to_the_next_pixel_value():
  model = fpp.FlowPlusPlus(SMALL)  # float32, where sigmoid(17) is 1 and 7 + sigmoid(15) is 8
  images = small_images()
  far = 40 * model.sample_noise([6], tf.constant([0, 1]))
  u, log_q = model.dequantizer.posterior(images).transform(far)
  assert 0 < np.min(u) and np.max(u) < 1 and np.all(np.isfinite(log_q))
  dequantized, _ = model.dequantizer.dequantize(tf.cast(images, tf.float32), far)
  np.testing.assert_array_equal(np.floor(dequantized), images)
  assert np.all(np.isfinite(model.log_prob_bound(images, noise=far)))
  ends = model.dequantizer.posterior(images).log_prob(tf.cast(images % 2, tf.float32))  # u = 0 and u = 1
  assert np.all(np.isfinite(ends))


def test_samples_have_one_value_for_each_image_and_draw(small_model):
  q = small_model.dequantizer.posterior(small_images())
  assert q.batch_shape == (6,) and q.event_shape == (4, 4, 2)
  u, log_q = q.experimental_sample_and_log_prob(3, seed=(0, 1))
  assert u.shape == (3, 6, 4, 4, 2) and log_q.shape == (3, 6)
  np.testing.assert_allclose(q.log_prob(u), log_q, rtol=1e-6)

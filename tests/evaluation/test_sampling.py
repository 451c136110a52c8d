"""Samples, interpolations, reconstructions, nearest neighbours, their pictures, and figures of how good samples are."""

import dataclasses
import types

import numpy as np
from PIL import Image
import pytest
import scipy.linalg
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import InputError, evaluation, training
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.data import ImageDataset, load_dataset
from flowpp_tf.evaluation import features as features_module
from flowpp_tf.evaluation import sample_quality
from flowpp_tf.evaluation.latents import slerp
from support.comparing import assert_same
from support.models import MINIMAL, SMALL, perturbed, small_images


@pytest.fixture(scope="module")
def model():
  """Float32, as people have it."""
  return perturbed(SMALL)


@pytest.fixture(scope="module")
def batched(model):
  return evaluation.BatchedModel(model, 3)


@pytest.fixture(scope="module")
def exact():
  """In float64, where no pixel is within the rounding of another."""
  model = perturbed(SMALL, dtype="float64")
  return evaluation.BatchedModel(model, 4)


# --- Batches --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_seed_gives_the_same_samples_in_any_batches_and_on_any_devices(model, batched):
  samples = model.sample(7, temperature=0.8, seed=5).numpy()
  assert len(np.unique(samples.reshape(7, -1), axis=0)) == 7
  np.testing.assert_array_equal(batched.sample(7, temperature=0.8, seed=5), samples)
  strategy = training.get_strategy("mirrored")
  with strategy.scope():
    mirrored = fpp.FlowPlusPlus(SMALL)
  mirrored.set_weights(model.get_weights())
  np.testing.assert_array_equal(evaluation.BatchedModel(mirrored, 100).sample(7, 0.8, seed=5), samples)

  def share():  # what each of two replicas makes of one draw, on its own device
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return mirrored.decode(mirrored.sample_latents(7, 0.8, seed=5)[4 * replica : 4 * replica + 4])

  parts = strategy.experimental_local_results(strategy.run(share))
  np.testing.assert_array_equal(np.concatenate(parts), samples)


def test_latents_of_samples_are_one_stateless_normal_draw(model):
  # Published seeds stay good: this is the draw that they name.
  z = tf.random.stateless_normal([7, *model.coupling_flow.latent_shape], [0, 5])
  np.testing.assert_array_equal(model.sample_latents(7, seed=5), z)
  np.testing.assert_array_equal(model.sample_latents(7, 0.5, seed=5), 0.5 * z)


def test_latents_of_images_do_not_depend_on_the_batches(model, batched):
  images = small_images(7)
  np.testing.assert_allclose(batched.encode(images, seed=4), model.encode(images, seed=4), rtol=1e-4, atol=1e-5)
  noise = model.sample_noise([7], tf.constant([0, 1]))
  np.testing.assert_allclose(batched.encode(images, noise), model.encode(images, noise), rtol=1e-4, atol=1e-5)


def test_each_function_is_traced_once_whatever_the_numbers(batched):
  for count in (1, 3, 8):
    batched.decode(batched.encode(small_images(count), seed=0))
  for function in (batched._encode, batched._decode):
    assert function._run.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_a_first_batch_that_may_be_the_only_one_is_not_traced_and_has_the_same_bits(model):
  batched = evaluation.BatchedModel(model, batch_size=4)
  first, second = ([batched.encode(small_images(3), seed=0), batched.sample(4, seed=0)] for _ in range(2))
  assert_same(first, second)
  assert batched._encode._run.experimental_get_tracing_count() == 1
  several = evaluation.BatchedModel(model, batch_size=2)
  several.sample(4, seed=0)
  assert several._decode._run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("on_terminal, count, shown", [(True, 7, True), (True, 3, False), (False, 7, False)])
def test_progress_is_shown_on_a_terminal_and_for_more_than_one_batch(monkeypatch, capsys, on_terminal, count, shown):
  monkeypatch.setattr("sys.stderr.isatty", lambda: on_terminal, raising=False)
  slices = list(evaluation.batched_model.batches(count, 3))
  assert [i for s in slices for i in range(count)[s]] == list(range(count))
  assert ("7/7" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("batch_size", [2, 5])
def test_noise_that_is_no_uniform_one_is_refused_in_any_batches(batch_size):
  """Else images of several batches would have latents of other pixel values."""
  images = small_images(5, MINIMAL)
  noise = np.full(images.shape, 0.5, np.float32)
  noise[3, 1, 2, 0] = 1.5
  with pytest.raises(ValueError, match=r"`noise` that is uniform must lie in \[0, 1\), got values from 0.5 to 1.5"):
    evaluation.BatchedModel(fpp.FlowPlusPlus(MINIMAL), batch_size).encode(images, noise)


# --- Interpolation, reconstruction ----------------------------------------------------------------


def test_slerp_goes_along_the_great_circle_at_even_speed_with_typical_norms():
  z0, z1 = np.random.RandomState(0).randn(2, 4, 6, 32).astype(np.float32)
  t = np.linspace(0, 1, 9)
  path = slerp(z0, z1, t)
  assert path.shape == (9, 4, 6, 32) and path.dtype == np.float32
  np.testing.assert_array_equal(path[[0, -1]], [z0, z1])
  norms = np.linalg.norm(path.reshape(9, -1).astype(np.float64), axis=1)
  np.testing.assert_allclose(norms, (1 - t) * norms[0] + t * norms[-1], rtol=1e-6)
  directions = path.reshape(9, -1) / norms[:, np.newaxis]
  steps = np.arccos(np.sum(directions[1:] * directions[:-1], axis=1))
  whole = np.arccos(directions[0] @ directions[-1])
  np.testing.assert_allclose(steps, whole / 8, rtol=1e-4)  # their sum is that of the shortest way
  assert np.linalg.norm((z0 + z1) / 2) < 0.8 * norms[4]  # what the straight line would do


@pytest.mark.parametrize(
  "z0, z1, middle",
  [
    ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]),
    ([1.0, 2.0], [3.0, 6.0], [2.0, 4.0]),
    ([0.0, 0.0], [2.0, 2.0], [1.0, 1.0]),
    ([1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]),
    ([1.0, 0.0], [1.0, 1e-7], [1.0, 5e-8]),
  ],
)
def test_slerp_is_the_straight_line_where_there_is_no_one_arc(z0, z1, middle):
  path = slerp(np.array(z0), np.array(z1), np.array([0.0, 0.5, 1.0]))
  np.testing.assert_allclose(path, [z0, middle, z1], rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_interpolation_has_the_images_at_its_ends(exact):
  images = small_images(2)
  frames = evaluation.interpolate(exact, *images, frames=6, seed=3)
  assert frames.shape == (6, 4, 4, 2) and frames.dtype == np.uint8
  np.testing.assert_array_equal(frames[[0, -1]], images)
  assert all(np.any(frame != end) for frame in frames[2:4] for end in images)
  # Nothing but the images differs at the ends: between an image and itself nothing happens.
  still = evaluation.interpolate(exact, images[0], images[0], frames=3, seed=3)
  np.testing.assert_array_equal(still, np.stack([images[0]] * 3))


def test_reconstruction_is_exact_in_float64(exact):
  images = small_images(5)
  result = evaluation.reconstruct(exact, images, seed=1)
  np.testing.assert_array_equal(result.decoded, images)
  assert str(result) == "0 of 160 pixel values differ"
  assert not np.any(result.visible_differences(8))


def test_any_difference_of_a_reconstruction_is_counted_and_seen():
  images = np.full([2, 4, 4, 1], 100, np.uint8)
  decoded = images.copy()
  decoded[0, 1, 2], decoded[1, 3, 3] = 99, 140
  result = evaluation.Reconstruction(images, decoded)
  assert str(result) == "2 of 32 pixel values differ, by at most 40 levels"
  assert str(evaluation.Reconstruction(images[:1], decoded[:1])).endswith(", by at most 1 level")
  visible = result.visible_differences(256)
  assert np.count_nonzero(visible) == 2 and visible[0, 1, 2] >= 128 and visible[1, 3, 3] == 255
  two_levels = evaluation.Reconstruction(images // 100, images // 100 - (decoded != images))
  assert np.count_nonzero(two_levels.visible_differences(2)) == 2


# --- Nearest neighbours ---------------------------------------------------------------------------


class OnDisk:
  """Images that may be read, in order and once, only by parts."""

  def __init__(self, images):
    self._images, self.shape, self.read = images, images.shape, 0

  def __len__(self):
    return len(self._images)

  def __getitem__(self, part):
    assert part.start == self.read and part.stop - part.start <= 4
    self.read = part.stop
    return self._images[part]


def test_nearest_neighbours_are_those_of_all_differences(monkeypatch):
  monkeypatch.setattr(sample_quality, "_CHUNK_BYTES", 4 * 8 * 4 * 4 * 3)  # four images
  rng = np.random.RandomState(0)
  training = rng.randint(0, 256, [23, 4, 4, 3]).astype(np.uint8)
  training[17] = training[5]  # in another part: the first of the two comes first
  images = np.concatenate([rng.randint(0, 256, [5, 4, 4, 3]), training[5:6]]).astype(np.uint8)
  stored = OnDisk(training)
  indices, distances = evaluation.nearest_neighbours(images, stored, 6)
  assert stored.read == 23
  differences = images[:, np.newaxis].astype(np.int64) - training
  squares = np.sum(differences**2, axis=(2, 3, 4))
  np.testing.assert_array_equal(indices, np.argsort(squares, axis=1, kind="stable")[:, :6])
  np.testing.assert_array_equal(distances, np.sqrt(np.take_along_axis(squares, indices, axis=1)))
  np.testing.assert_array_equal(indices[5, :2], [5, 17])
  np.testing.assert_array_equal(distances[5, :2], [0, 0])


@pytest.mark.parametrize("name", ["images", "training_images"])
@pytest.mark.parametrize("value", [-1, 1 << 16, 1 << 31])
def test_integers_that_are_no_pixels_have_no_neighbours(name, value):
  """The squares of large ones are no integers of float64: an image would be at distance 0 of another one."""
  images = {"images": np.zeros([2, 4, 4, 2], int), "training_images": np.zeros([3, 4, 4, 2], int)}
  images[name][1, 2, 3, 1] = value
  with pytest.raises(ValueError, match=f"`{name}` must lie in 0 .. 65535"):
    evaluation.nearest_neighbours(**images, neighbours=1)


# --- Pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending, kind", [(".gif", "GIF"), (".apng", "PNG"), (".PNG", "PNG")])
@pytest.mark.parametrize("channels", [1, 3])
def test_animation_plays_there_and_back_without_smoothing(tmp_path, ending, kind, channels):
  images = np.random.RandomState(0).randint(0, 8, [3, 4, 2, channels]).astype(np.uint8)
  path = tmp_path / f"film{ending}"
  evaluation.write_animation(images, 8, path)
  with Image.open(path) as film:
    assert film.format == kind and film.info["loop"] == 0 and film.n_frames == 4
    for frame, image in enumerate(images[[0, 1, 2, 1]]):
      film.seek(frame)
      assert film.info["duration"] == (100 if frame % 2 else 500)
      pixels = np.asarray(film.convert("RGB"))
      scale = pixels.shape[1] // 2
      assert scale > 100
      exact = np.round(image * (255 / 7)).repeat(scale, axis=0).repeat(scale, axis=1)
      np.testing.assert_array_equal(pixels, np.broadcast_to(exact, pixels.shape))


def test_animation_of_another_ending_is_a_value_error(tmp_path):
  with pytest.raises(ValueError, match="an animation must end in .gif, .apng, .png, got .*film.jpg"):
    evaluation.write_animation(np.zeros([2, 4, 4, 1], np.uint8), 8, tmp_path / "film.jpg")
  assert not list(tmp_path.iterdir())


def test_wide_gaps_of_a_grid_part_columns():
  picture = evaluation.image_grid(np.zeros([6, 2, 2, 1], np.uint8), 8, columns=2, wide_columns=[1])
  scale = picture.size[0] // 8
  assert picture.size == (8 * scale, 8 * scale)
  columns = np.array([0, 0, 1, 1, 1, 1, 0, 0], bool)  # where it is white
  rows = np.array([0, 0, 1, 0, 0, 1, 0, 0], bool)
  np.testing.assert_array_equal(np.asarray(picture)[::scale, ::scale] == 255, rows[:, np.newaxis] | columns)


def test_the_distance_is_that_of_its_formula():
  rng = np.random.RandomState(0)
  a = rng.randn(400, 6) @ rng.randn(6, 6) + rng.randn(6)
  b = rng.randn(300, 6) @ rng.randn(6, 6)
  one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other).real)
  assert sample_quality.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [5, 1000])  # 5: singular covariances, of which a general square root fails
def test_the_distance_of_scaled_features_is_exact(count):
  a = np.random.RandomState(1).randn(count, 16)
  centred = a - a.mean(axis=0)
  expected = 0.25 * np.trace(np.cov(a, rowvar=False))  # by (1 - 1.5)^2
  assert sample_quality.frechet_distance(centred, 1.5 * centred) == pytest.approx(expected, rel=1e-6)
  assert sample_quality.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_standard_error_of_a_mean_is_that_of_the_means_of_groups():
  rows = np.random.RandomState(2).randn(50)
  groups = [rows[i::10].mean() for i in range(10)]
  assert sample_quality._standard_error(np.mean, rows) == pytest.approx(np.std(groups, ddof=1) / np.sqrt(10))


@pytest.fixture(scope="module")
def digits():
  return load_dataset("digits", labels=True)


@pytest.fixture(scope="module")
def evaluator(digits):
  return evaluation.SampleEvaluator(evaluation.FeatureNetwork.train(digits, steps=60))


def test_figures_tell_copies_noise_and_one_class_from_real_images(digits, evaluator):
  real = evaluator.real(1000)
  assert real.images == 1000 and sum(real.class_shares) == pytest.approx(1)
  assert real.imbalance < 0.2  # test images are few
  copies = evaluator(digits.train[:300])
  assert copies.neighbour_distance == copies.closest == 0 < real.closest < real.neighbour_distance
  noise = evaluator(np.random.RandomState(0).randint(0, 17, [300, 8, 8, 1]))
  assert noise.frechet_distance - 5 * noise.standard_error > 3 * real.frechet_distance
  sevens = evaluator(digits.train[digits.labels["train"] == 7])
  assert sevens.imbalance > 0.7 and sevens.class_shares[7] > 0.8
  assert sevens.frechet_distance > 2 * real.frechet_distance


@pytest.mark.slow
def test_without_labels_the_network_learns_rotations():
  # Stripes of one direction in the upper half: each of the four turns looks different.
  images = np.zeros([64, 8, 8, 1], np.uint8)
  images[:, :3, :, :] = np.random.RandomState(0).randint(128, 256, [64, 3, 8, 1])
  square = ImageDataset("bars", 256, images, images[:32], images[32:])
  network = evaluation.FeatureNetwork.train(square, steps=40)
  assert network.network.output_shape[1] == (None, 4)
  assert network.accuracy("test") > 0.9
  quality = evaluation.SampleEvaluator(network)(images)
  assert quality.class_shares == () and quality.imbalance is None
  wide = dataclasses.replace(square, **{split: square.split(split)[:, :4] for split in ("train", "validation", "test")})
  assert evaluation.FeatureNetwork.train(wide, steps=1).network.output_shape[1] == (None, 2)


def test_features_of_16_bits_are_those_of_all_their_bits():
  """An image of 8 bits, and the same one in 16 bits, whose values are 257 times as large, have the same features."""
  images = np.random.RandomState(0).randint(0, 256, [8, 8, 8, 1]).astype(np.uint8)

  def features(images, levels):
    dataset = ImageDataset("noise", levels, images, images, images)
    return evaluation.FeatureNetwork(features_module._network(dataset, seed=0), dataset)(images)[0]

  deep = features(images.astype(np.uint16) * 257, 1 << 16)
  np.testing.assert_allclose(deep, features(images, 256), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_network_follows_from_its_seed(digits):
  first, again = (evaluation.FeatureNetwork.train(digits, steps=3) for _ in range(2))
  np.testing.assert_allclose(first(digits.test)[0], again(digits.test)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n, counts", [(6, [4, 1, 1]), (30, [20, 5, 5]), (60, [40, 10, 10])])
def test_samples_of_a_model_with_classes_have_the_classes_of_sorted_training_images(digits, n, counts):
  """Those of a folder are sorted: labels of the first images alone would be those of one class."""

  class Labels:  # in place of a `BatchedModel`, whose samples have these labels
    model = types.SimpleNamespace(config=types.SimpleNamespace(num_classes=3))

    def sample(self, n, temperature, seed, labels):
      return labels

  labels = np.repeat([0, 1, 2], [20, 5, 5])
  images = digits.train[:30]
  dataset = ImageDataset(
    "sorted", 17, images, images, images, labels=dict.fromkeys(SPLITS, labels), classes=("a", "b", "c")
  )
  assert np.bincount(sample_quality.draw_samples(Labels(), dataset, n, 1.0, seed=0)).tolist() == counts


def test_too_few_samples_are_refused(digits, evaluator):
  with pytest.raises(InputError, match="`images` must be at least 20, got 19"):
    evaluator(digits.test[:19])

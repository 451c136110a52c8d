"""Real-valued images: the density is exact, in any unit of the data, and on a torus it does not see where it begins."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.compression import CodecModel
from flowpp_tf.evaluation import (
  REAL_SCORES,
  BatchedModel,
  BitMaps,
  PositionScorer,
  Scorer,
  evaluate_bits_per_dim,
  reconstruct,
)
from support.marks import slow
from support.models import TINY, perturb, small_config
from support.refusing import refuses

SMALL = small_config(
  TINY, image_shape=(4, 4, 1), dequantization="none", components=2, filters=8, dropout=0.0, dtype="float64"
)
SIMPLE = dict(structure="columns:1", coupling="affine", attention=False)


def made(config=SMALL, count=32, **changes):
  """A model that is initialised from data, with noise on its weights."""
  model = fpp.FlowPlusPlus(dataclasses.replace(config, **changes))
  fields = np.random.RandomState(0).normal(size=[count, *model.config.image_shape])
  given = {}
  if model.config.condition_shape:
    given["condition"] = np.random.RandomState(1).normal(size=[count, *model.config.condition_shape])
  if model.config.num_classes:
    given["label"] = np.arange(count) % model.config.num_classes
  model.adapt({"image": fields, **given})
  return perturb(model, 0.05, seed=2), fields, given


def test_log_prob_is_the_density_of_the_latent_times_the_jacobian():
  model, fields, _ = made()
  x = tf.constant(fields[:3])
  with tf.GradientTape() as tape:
    tape.watch(x)
    z = model.encode(x)
  jacobian = tf.reshape(tape.batch_jacobian(z, x), [3, 16, 16])
  log_det = np.linalg.slogdet(jacobian.numpy())[1]
  prior = -0.5 * np.sum(z.numpy() ** 2 + np.log(2 * np.pi), axis=(1, 2, 3))
  np.testing.assert_allclose(model.log_prob(x), prior + log_det, rtol=1e-12)
  np.testing.assert_allclose(model.log_prob_bound(x, num_samples=3), model.log_prob(x), rtol=1e-15)


def test_the_density_of_two_values_integrates_to_one():
  model, *_ = made(image_shape=(1, 2, 1), structure="columns:2", attention=False)
  line = np.linspace(-12, 12, 481)
  grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 1, 2, 1)
  total = np.sum(np.exp(model.log_prob(grid))) * (line[1] - line[0]) ** 2
  np.testing.assert_allclose(total, 1, atol=1e-4)


def test_a_unit_of_the_data_only_adds_its_log_to_the_log_prob():
  fields = np.random.RandomState(0).normal(size=[64, 4, 4, 1])
  log_probs = []
  for scale, shift in ((1.0, 0.0), (1e-5, 3e-3), (1e15, -4e15)):
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(SMALL)
    model.adapt(fields * scale + shift)
    log_probs.append(model.log_prob(fields * scale + shift) + 16 * np.log(scale))
    samples = model.sample(64, seed=0).numpy()
    assert 0.2 < samples.std() / scale < 5
  np.testing.assert_allclose(log_probs[1:], [log_probs[0]] * 2, rtol=1e-9)


def test_channels_are_standardised_on_their_own():
  fields = np.random.RandomState(0).normal([3.0, -50.0], [0.1, 20.0], size=[200, 4, 4, 2])
  model = fpp.FlowPlusPlus(dataclasses.replace(SMALL, image_shape=(4, 4, 2)))
  model.adapt(fields, batch_size=200)
  np.testing.assert_allclose(model.standardization.mean, fields.mean(axis=(0, 1, 2)))
  np.testing.assert_allclose(model.standardization.stddev, fields.std(axis=(0, 1, 2)))
  assert len(model.trainable_variables) == len(model.variables) - 2


BLOCKS = {
  "columns:2": (1, 2),
  "channels:2": (1, 1),
  "squeeze,channels:2": (2, 2),
  "squeeze,columns:1,squeeze,channels:1": (4, 4),
  "columns:1,squeeze,channels:1,columns:1": (2, 4),
}


@pytest.mark.parametrize(
  ("structure", "attention", "condition_shape"),
  [
    *(
      (slow if attention else pytest.param)(structure, attention, ())
      for structure in BLOCKS
      for attention in (False, True)
    ),
    *(("squeeze,columns:1,squeeze,channels:1", False, shape) for shape in ((4, 4, 2), (1, 1, 3))),
  ],
)
def test_a_periodic_model_does_not_see_where_a_torus_begins(structure, attention, condition_shape):
  block = BLOCKS[structure]
  model, fields, given = made(
    image_shape=(8, 8, 2),
    structure=structure,
    attention=attention,
    padding="periodic",
    condition_shape=condition_shape,
    condition_blocks=1,
  )
  rolled = np.roll(fields, block, axis=(1, 2))
  there = dict(given)
  if condition_shape == (4, 4, 2):  # each of its pixels is two of the field's
    rolled = np.roll(fields, (4, 4), axis=(1, 2))
    there = {"condition": np.roll(given["condition"], (2, 2), axis=(1, 2))}
  np.testing.assert_allclose(model.log_prob(rolled, **there), model.log_prob(fields, **given), rtol=1e-12)
  if max(block) > 1:  # a test of the test: other shifts are seen
    assert np.abs(model.log_prob(np.roll(fields, 1, axis=2), **given) - model.log_prob(fields, **given)).max() > 1e-3


def test_integer_images_on_a_torus_have_a_periodic_dequantizer_too():
  config = dataclasses.replace(
    SMALL, dequantization="variational", dequant_filters=8, context_channels=8, context_blocks=1, dequant_blocks=1
  )
  model = fpp.FlowPlusPlus(dataclasses.replace(config, padding="periodic", levels=4, context_attention=True))
  images = np.random.RandomState(0).randint(0, 4, [8, 4, 4, 1])
  model.adapt(images)
  noise = model.sample_noise([8], 0).numpy()
  roll = lambda x: np.roll(x, (2, 2), axis=(1, 2))
  np.testing.assert_allclose(
    model.log_prob_bound(roll(images), noise=roll(noise)), model.log_prob_bound(images, noise=noise), rtol=1e-12
  )


def test_default_padding_has_position_embeddings():
  assert [v.path for v in fpp.FlowPlusPlus(fpp.get_config("digits")).variables if "position_embedding" in v.path]


def test_samples_and_latents_are_real_and_go_back_and_forth():
  model, fields, _ = made()
  samples = model.sample(5, seed=1)
  assert samples.shape == [5, 4, 4, 1] and samples.dtype == tf.float64
  np.testing.assert_allclose(model.decode(model.encode(fields)), fields, atol=1e-9)


def test_the_distribution_is_one_of_real_values():
  model, fields, _ = made()
  distribution = model.distribution
  assert distribution.dtype == tf.float64 and distribution.batch_shape == []
  np.testing.assert_allclose(distribution.log_prob(fields), model.log_prob(fields), rtol=1e-12)
  assert distribution.sample([2, 3], seed=0).shape == [2, 3, 4, 4, 1]
  conditional, fields, given = made(condition_shape=(1, 1, 3))
  np.testing.assert_allclose(
    conditional.given(**given).log_prob(fields), conditional.log_prob(fields, **given), rtol=1e-12
  )


@pytest.mark.slow
def test_a_saved_model_has_its_standardization(tmp_path):
  model, fields, _ = made()
  model.save(tmp_path / "model.keras")
  loaded = keras.models.load_model(tmp_path / "model.keras")
  np.testing.assert_array_equal(loaded.log_prob(fields), model.log_prob(fields))
  model.save_to_preset(tmp_path / "preset")
  np.testing.assert_array_equal(
    fpp.FlowPlusPlus.from_preset(tmp_path / "preset").log_prob(fields), model.log_prob(fields)
  )
  assert "real numbers" in (tmp_path / "preset" / "README.md").read_text()
  fpp.export(model, tmp_path / "1")
  exported = tf.saved_model.load(tmp_path / "1")
  bound = exported.log_prob_bound(fields)["log_prob_bound"]
  np.testing.assert_allclose(bound, model.log_prob(fields), rtol=1e-12)
  assert exported.sample(tf.constant(2))["images"].dtype == tf.float64


@pytest.mark.parametrize("changes", [{}, slow(dict(image_shape=(4, 4, 2), num_classes=3))])
def test_scores_and_their_positions_are_the_exact_density(changes):
  """Of each class, too; however many samples are asked for."""
  model, fields, _ = made(**SIMPLE, **changes)
  fields, classes = fields[:5], range(model.config.num_classes) or [None]
  log_probs = np.stack([model.log_prob(fields, labels=label) for label in classes])
  expected = np.log(np.mean(np.exp(log_probs), axis=0))
  scores = Scorer(model, num_samples=3, typical=1.5)(fields, batch_size=2)
  assert tuple(scores) == REAL_SCORES
  dims = fields[0].size
  np.testing.assert_allclose(scores["log_likelihood"], expected, rtol=1e-12)
  np.testing.assert_allclose(scores["nats_per_dim"], expected / dims, rtol=1e-12)
  np.testing.assert_allclose(scores["bits_per_dim"], -expected / dims / np.log(2), rtol=1e-12)
  np.testing.assert_allclose(scores["typicality"], np.abs(scores["bits_per_dim"] - 1.5), rtol=1e-12)
  for label, log_prob in zip(classes, log_probs):
    bits = PositionScorer(model, num_samples=3)(fields, labels=label)
    np.testing.assert_allclose(bits.total.sum(axis=(1, 2)) * np.log(2), -log_prob, rtol=1e-11)
    assert not bits.dequantization.any()


def test_an_evaluation_is_the_mean_density_and_is_called_so():
  model, fields, _ = made(**SIMPLE)
  result = evaluate_bits_per_dim(model, fields, num_samples=[1, 4])
  (bound,) = result.bounds
  np.testing.assert_allclose(bound.bits_per_dim, -np.mean(model.log_prob(fields)) / 16 / np.log(2), rtol=1e-12)
  assert "exact log density" in str(result) and "negative log density" in str(result) and "bound" not in str(result)


def test_a_map_of_whole_tiles_is_that_of_each_tile():
  model, fields, _ = made(**SIMPLE)
  picture = np.concatenate([np.concatenate([*fields[:3]], axis=1), np.concatenate([*fields[3:6]], axis=1)])
  (bits,) = BitMaps(model)([picture])
  tiles = np.stack([bits[:4, :4], bits[:4, 4:8], bits[:4, 8:], bits[4:, :4], bits[4:, 4:8], bits[4:, 8:]])
  np.testing.assert_allclose(tiles.sum(axis=(1, 2)) * np.log(2), -model.log_prob(fields[:6]), rtol=1e-11)


@pytest.mark.slow
def test_keras_trains_on_fields():
  model, fields, _ = made(dtype="float32")
  before = float(tf.reduce_mean(model.log_prob(fields)))
  model.compile(keras.optimizers.Adam(3e-3))
  history = model.fit(fields, epochs=3, batch_size=16, verbose=0)
  assert np.all(np.isfinite(history.history["loss"]))
  assert float(tf.reduce_mean(model.log_prob(fields))) > before


def test_what_is_wrong_is_one_line():
  model, fields, _ = made()
  for wrong in (np.nan, np.inf):
    broken = fields.copy()
    broken[0, 1, 2, 0] = wrong
    refuses("`images` must be finite, got 1 values", model.log_prob, broken)
    refuses("`images` must be finite, got 1 values", model.distribution.log_prob, broken)
  new = fpp.FlowPlusPlus(SMALL)
  refuses("positive, finite standard deviation in each channel", new.adapt, np.ones([8, 4, 4, 1]))
  far = 1e4 + np.random.RandomState(0).normal(size=[8, 4, 4, 1])
  single = fpp.FlowPlusPlus(dataclasses.replace(SMALL, dtype="float32"))
  refuses("subtract the mean, or use float64", single.adapt, far)
  integers = fpp.FlowPlusPlus(fpp.get_config("digits"))
  refuses('`dequantization` must be "none"', integers.log_prob, np.zeros([1, 8, 8, 1]))
  refuses("`augment_channels` must be 0", dataclasses.replace, SMALL, augment_channels=1)
  refuses("real-valued images cannot compress", CodecModel.from_model, model)
  for images in (fields, np.round(fields)):  # integers of a real-valued model do not come back as such either
    refuses("the model must be one of integer images", reconstruct, BatchedModel(model), images)
  refuses("`images` must be finite, got 1 values that are NaN or infinite, the first in image 0", Scorer(model), broken)
  refuses(r"must consist of whole tiles of 4x4 \(HxW\), got 6x4", BitMaps(model), np.zeros([1, 6, 4, 1]))
  refuses("cannot be exported to this format", fpp.export, model, "model.onnx", "onnx")
  on_torus = fpp.FlowPlusPlus(dataclasses.replace(fpp.get_config("digits"), padding="periodic"))
  refuses("`padding` periodic cannot compress", CodecModel.from_model, on_torus)
  refuses(
    "with periodic `padding` or `augment_channels` cannot be exported", fpp.export, on_torus, "model.onnx", "onnx"
  )

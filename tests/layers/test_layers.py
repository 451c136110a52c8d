"""Layers of networks: their initialisation against the moments that it promises, dropout, labels, configs."""

import numpy as np
import pytest
import tensorflow as tf

from flowpp_tf import layers
from flowpp_tf.core.context import EvalContext
from support.bijector_cases import draw


@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize(
  "make",
  [
    lambda **k: layers.InitNormConv2D(5, init_scale=0.1, dtype="float64", **k),
    lambda **k: layers.InitNormDense(5, init_scale=0.1, dtype="float64", **k),
  ],
)
def test_initialisation_gives_the_promised_moments_and_keeps_them(make, weight_norm):
  layer = make(weight_norm=weight_norm)
  x = 3 + draw(16, 4, 4, 3)
  first = layer(x, initialize=True)
  for out in (first, layer(x)):
    np.testing.assert_allclose(tf.reduce_mean(out, [0, 1, 2]), np.zeros(5), atol=1e-10)
    np.testing.assert_allclose(tf.math.reduce_std(out, [0, 1, 2]), np.full(5, 0.1), rtol=1e-4)
  np.testing.assert_allclose(layer(x), first, atol=1e-12)


def test_initialisation_gives_a_dense_conditioner_the_means_that_are_asked_for():
  network = layers.DenseConditioner(3, 2, 8, 1, output_mean=[1.5, -2.0], dtype="float64")
  again, x = layers.DenseConditioner.from_config(network.get_config()), 3 + draw(16, 3)
  for one in (network, again):
    first = one(x, ctx=EvalContext(initialize=True))
    np.testing.assert_allclose(tf.reduce_mean(first, 0), [1.5, -2.0], atol=1e-10)
    np.testing.assert_allclose(one(x), first, atol=1e-12)


@pytest.mark.parametrize("pixels", ["uint16", "float32"])
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_context_of_pixels_of_16_bits_does_not_overflow_in_narrow_dtypes(dtype, pixels):
  network = layers.NetworkConfig(4, 1, "none")
  narrow, wide = (layers.ContextNet((2, 4, 1), 2**16, network, dtype=policy) for policy in (dtype, "float32"))
  narrow.set_weights(wide.get_weights())
  images = tf.constant([0, 100, 30_000, 65_503, 65_519, 65_520, 65_534, 65_535], pixels, [1, 2, 4, 1])
  np.testing.assert_allclose(tf.cast(narrow(images), tf.float32), wide(images), atol=0.02)


def test_attention_and_its_replacement_have_the_same_number_of_weights():
  count = lambda mixer: layers.Conditioner((4, 4, 2), 8, layers.NetworkConfig(4, 2, mixer)).count_params()
  assert count("attention") == count("pointwise")


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_labels_may_have_a_dtype_that_does_not_hold_the_number_of_classes(dtype):
  embedding = layers.LabelEmbedding(200, 2)
  vectors = embedding(tf.constant([3, 127, -1, -2], dtype))[:, 0, 0]
  expected = tf.gather(embedding.table, [3, 127, 200])
  np.testing.assert_array_equal(vectors, [*expected.numpy(), [np.nan, np.nan]])


def test_dropout_mask_is_a_function_of_the_seed_and_off_outside_training():
  layer = layers.Dropout(0.5)
  x = tf.ones([4, 100])
  on = lambda seed: layer(x, training=True, seed=tf.constant(seed)).numpy()
  np.testing.assert_array_equal(on([1, 2]), on([1, 2]))
  assert np.any(on([1, 2]) != on([1, 3]))
  assert set(np.unique(on([1, 2]))) == {0.0, 2.0}
  np.testing.assert_array_equal(layer(x, training=False, seed=tf.constant([1, 2])), x)


@pytest.mark.parametrize("rate, seed", [(1 - 2**-18, [1, 2]), (1.0, [1, 2]), (1.0, None)])
def test_dropout_of_nearly_everything_keeps_nothing(rate, seed):
  assert not np.any(layers.Dropout(rate)(tf.ones([2, 100]), training=True, seed=seed))


@pytest.mark.parametrize("seed", [None, [1, 2]])
@pytest.mark.parametrize("noise_shape, axis", [((None, 1, 8), 1), ((1, None, 8), 0), ((4, 6, 1), 2)])
def test_dropout_shares_its_mask_along_the_axes_of_the_noise_shape(noise_shape, axis, seed):
  layer, x = layers.Dropout(0.5, noise_shape), tf.ones([4, 6, 8])
  y = layer(x, training=True, seed=seed).numpy()
  np.testing.assert_array_equal(y, np.broadcast_to(np.take(y, [0], axis), y.shape))
  assert set(np.unique(y)) == {0.0, 2.0}
  if seed and noise_shape[0] != 4:  # a size that is given is that of each part
    parts = [layer(x[:3], training=True, seed=seed), layer(x[3:], training=True, seed=seed, batch_offset=3)]
    np.testing.assert_array_equal(tf.concat(parts, axis=0), y)


@pytest.mark.parametrize("channels", [1, 2, 97])
def test_dropout_drops_its_rate_independently_and_scales_what_is_left(channels):
  x = tf.ones([200_000 // channels, channels], tf.float64)
  kept = layers.Dropout(0.2, dtype="float64")(x, training=True, seed=tf.constant([1, 2])).numpy() > 0
  error = np.sqrt(0.2 * 0.8 / kept.size)
  assert abs(np.mean(kept) - 0.8) < 6 * error  # which a right mask exceeds with a probability of 2e-9
  both = kept.reshape(-1)[1:] & kept.reshape(-1)[:-1]  # halves of the same random number too
  assert abs(np.mean(both) - 0.64) < 6 * np.sqrt(0.64 * 0.36 * 3 / both.size)
  np.testing.assert_allclose(
    layers.Dropout(0.2, dtype="float64")(x, training=True, seed=tf.constant([1, 2]))[kept], 1.25
  )


@pytest.mark.parametrize(
  "layer",
  [
    layers.InitNormConv2D(4, weight_norm=True),
    layers.InitNormDense(4, init_scale=0.1),
    layers.GatedConv(4, output_kernel_size=3, dropout=0.1),
    layers.GatedAttention(4, heads=2),
    layers.GatedPointwise(4),
    layers.ConvAttentionBlock(layers.NetworkConfig(4, 1, heads=2), use_context=True),
    layers.Conditioner((4, 4, 2), 8, layers.NetworkConfig(4, 2), output_concat_elu=True),
    layers.ContextNet((4, 4, 3), levels=8, network=layers.NetworkConfig(4, 1, heads=2)),
  ],
  ids=lambda layer: type(layer).__name__,
)
def test_layers_are_made_again_from_their_config(layer):
  again = type(layer).from_config(layer.get_config())
  assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: layers.GatedAttention(6, heads=4), "`heads` must divide `filters`, got 4 heads and 6"),
    (
      lambda: layers.Conditioner((4, 4, 2), 8, layers.NetworkConfig(4, 1), context_channels=3)(tf.zeros([1, 4, 4, 2])),
      "3 context channels, got context None",
    ),
  ],
)
def test_bad_arguments_are_value_errors_that_say_what_was_expected(make, message):
  with pytest.raises(ValueError, match=message):
    make()

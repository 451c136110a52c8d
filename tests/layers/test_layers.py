"""Layers: the moments that initialisation promises, dropout, labels, configs; blocks against plain formulas."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import layers
from flowpp_tf.core.context import EvalContext
from flowpp_tf.layers import concat_elu, gate
from flowpp_tf.layers.kernels import pointwise
from flowpp_tf.layers.kernels.attention import self_attention
from support import shape_checks
from support.bijector_cases import draw
from support.comparing import MODES, assert_same, derivatives
from support.marks import quick_rows, slow
from support.models import perturb


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


def test_initialisation_gives_a_dense_conditioner_small_blocks_and_the_means_that_are_asked_for():
  network = layers.DenseConditioner(3, 2, 8, 1, output_mean=[1.5, -2.0], dtype="float64")
  again, x = layers.DenseConditioner.from_config(network.get_config()), 3 + draw(16, 3)
  for one in (network, again):
    first = one(x, ctx=EvalContext(initialize=True))
    np.testing.assert_allclose(tf.reduce_mean(first, 0), [1.5, -2.0], atol=1e-10)
    np.testing.assert_allclose(one(x), first, atol=1e-12)
    added = one.outer[0](tf.nn.elu(one.inner[0](tf.nn.elu(one.input_layer(x)))))  # by its block
    for part in (added, first):  # so that couplings begin near the identity
      np.testing.assert_allclose(tf.math.reduce_std(part, 0), np.full(part.shape[1], 0.1), rtol=1e-4)


def test_a_dense_conditioner_has_the_sizes_of_a_vector_flow_if_none_are_given():
  of_layer, of_flow = (inspect.signature(f).parameters for f in (layers.DenseConditioner, fpp.vector_flow))
  for name in ("hidden", "blocks", "context_size"):
    assert of_layer[name].default == of_flow[name].default


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


X, CONTEXT, EMBEDDING = (
  tf.constant(np.random.RandomState(i).randn(*shape)) for i, shape in enumerate([(2, 4, 3, 4), (2, 4, 3, 6), (4, 3, 4)])
)
TRAINING = EvalContext(training=True, seed=tf.constant([1, 2]), batch_offset=3)
KINDS = {  # of the network, of the block, the context of its calls, of the evaluation
  "attention": (dict(), dict(), None, EvalContext()),
  "with context and dropout": (dict(dropout=0.4), dict(use_context=True), CONTEXT, TRAINING),
  "pointwise with weight norm": (dict(mixer="pointwise", weight_norm=True, dropout=0.4), dict(), None, TRAINING),
  "convolution only": (dict(mixer="none"), dict(output_kernel_size=3), None, EvalContext()),
  "without layer norm": (dict(layer_norm=False, dropout=0.4), dict(), None, TRAINING),
}


def make_block(network=None, **options):
  network = fpp.layers.NetworkConfig(4, 1, heads=2, **(network or {}))
  return fpp.layers.ConvAttentionBlock(network, dtype="float64", **options)


def plain_product(layer, x):
  kernel = tf.convert_to_tensor(layer.kernel)
  if layer.weight_norm:
    kernel *= layer.gain / tf.sqrt(tf.reduce_sum(kernel**2, axis=list(range(kernel.shape.rank - 1))))
  product = tf.nn.conv2d(x, kernel, 1, "SAME") if kernel.shape.rank == 4 else tf.einsum("nhwc,cd->nhwd", x, kernel)
  return product + layer.bias


def plain_concat_elu(x, keep=None):
  y = tf.concat([x, -x], axis=-1)
  y = tf.where(y > 0, y, tf.exp(y) - 1)
  return y if keep is None else tf.where(keep, y, tf.zeros_like(y))


def plain_end(layer, x, h, norm, ctx):
  """Dropout, product, gate, residual sum, layer norm."""
  keep = layer.dropout.keep_mask(h.shape, ctx.training, ctx.stream("dropout"), ctx.batch_offset)
  if keep is not None:
    h = tf.where(keep, h / (1 - layer.dropout.rate), tf.zeros_like(h))
  x += plain_gate(plain_product(layer.output_projection, h))
  return x if norm is None else plain_norm(x, norm)


def plain_mix(mixer, h):
  n, height, width, _ = h.shape
  if not hasattr(mixer, "heads"):
    return tf.reduce_max(tf.reshape(h, [n, height, width, mixer.filters, 3]), axis=-1)
  depth = mixer.filters // mixer.heads
  q, k, v = tf.unstack(tf.reshape(h, [n, height * width, 3, mixer.heads, depth]), axis=2)
  weights = tf.nn.softmax(tf.einsum("nqhd,nkhd->nhqk", q, k) / depth**0.5)
  return tf.reshape(tf.einsum("nhqk,nkhd->nqhd", weights, v), [n, height, width, mixer.filters])


def plain_block(block, x, embedding, context, ctx):
  h = plain_product(block.conv.conv, plain_concat_elu(x))
  if context is not None:
    h += plain_product(block.conv.context_projection, plain_concat_elu(context))
  x = plain_end(block.conv, x, plain_concat_elu(h), block.conv_norm, ctx.fold_in("conv"))
  if block.mixer is None:
    return x
  h = plain_mix(block.mixer, plain_product(block.mixer.input_projection, x + embedding))
  return plain_end(block.mixer, x, h, block.mixer_norm, ctx.fold_in("mixer"))


@pytest.mark.parametrize("graph", [slow(False), True])
@pytest.mark.parametrize("kind", quick_rows(KINDS, {*KINDS} - {"attention", "without layer norm"}))
def test_a_block_has_the_value_and_both_derivatives_of_the_plain_formula(kind, graph):
  network, options, context, ctx = KINDS[kind]
  block = make_block(network, **options)
  block.build(X.shape, EMBEDDING.shape, context if context is None else context.shape)
  perturb(block, 0.3)
  variables = [v.value for v in block.trainable_variables]
  inputs = [X, EMBEDDING, *([] if context is None else [context])]
  of = lambda function: derivatives(
    lambda x, embedding, context=None: function(x, embedding, context, ctx=ctx), *inputs, by=variables
  )
  plain, ours = of(functools.partial(plain_block, block)), lambda: of(block)
  assert_same((tf.function(ours, autograph=False) if graph else ours)(), plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
  "options, inputs, message",
  [
    (dict(), (None, CONTEXT), "`context` must be None: see `use_context`"),
    (dict(use_context=True), (EMBEDDING, None), "`context` must be given: see `use_context`"),
    (dict(use_context=True), (None, CONTEXT[..., :5]), r"`context` must be of shape \[..., \?, \?, 6\], got .* 5\)"),
    (dict(use_context=True), (None, CONTEXT[:, :2]), r"`context` must be of shape \[N, H, W, 6\] for `x` of \(2, 4"),
    (dict(), (EMBEDDING[:1, :1], None), r"`position_embedding` must be of shape \[..., 4, 3, 4\], got \(1, 1, 4\)"),
  ],
)
def test_a_block_refuses_what_would_be_broadcast(options, inputs, message):
  block = make_block(**options)
  block.build(X.shape, context_shape=CONTEXT.shape)
  for call in (block, tf.function(block, autograph=False)):
    with shape_checks.suspended(), pytest.raises(ValueError, match=message):
      call(X, *inputs)


def test_a_context_that_is_missing_when_weights_are_made_is_named():
  with pytest.raises(ValueError, match="`context` must be given: see `use_context`"):
    make_block(use_context=True)(X)


def test_a_context_of_one_image_is_that_of_all():
  block = make_block(dict(mixer="none"), use_context=True)
  expected = block(X, context=tf.repeat(CONTEXT[:1], 2, axis=0))
  for call in (block, tf.function(block, autograph=False)):
    np.testing.assert_allclose(call(X, context=CONTEXT[:1]), expected, rtol=1e-12)


Z, H, KEEP = draw(2, 3, 2, 4), draw(2, 3, 2, 8, seed=1), draw(2, 3, 2, 8, seed=2) > 0
NORM = keras.layers.LayerNormalization(epsilon=pointwise.LAYER_NORM_EPSILON, dtype="float64")
NORM.build((None, 3, 2, 4))
NORM.gamma.assign(draw(4, seed=3))
NORM.beta.assign(draw(4, seed=4))
DENSE = fpp.layers.InitNormDense(5, dtype="float64")
DENSE.build((None, 3, 2, 4))
DENSE.bias.assign(draw(5, seed=5))


def plain_gate(h):
  a, b = tf.split(h, 2, axis=-1)
  return a * tf.sigmoid(b)


def plain_norm(x, norm=NORM):
  x -= tf.reduce_mean(x, axis=-1, keepdims=True)  # `tf.nn.moments` has wrong second derivatives
  variance = tf.reduce_mean(x**2, axis=-1, keepdims=True)
  return x / tf.sqrt(variance + norm.epsilon) * norm.gamma + norm.beta


CASES = {  # ours, plain, arguments, variables
  "gate": (gate, plain_gate, [H], []),
  "concat_elu": (concat_elu, plain_concat_elu, [Z], []),
  "kept concat_elu": (lambda x: pointwise.kept_concat_elu(x, KEEP), lambda x: plain_concat_elu(x, KEEP), [Z], []),
  "kept": (lambda h: pointwise.kept_values(h, KEEP), lambda h: tf.where(KEEP, h, tf.zeros_like(h)), [H], []),
  "sum": (pointwise.gated_sum, lambda x, h: x + plain_gate(h), [Z, H], []),
  "norm": (
    lambda x, h: pointwise.gated_sum(x, h, *map(tf.convert_to_tensor, (NORM.gamma, NORM.beta))),
    lambda x, h: plain_norm(x + plain_gate(h)),
    [Z, H],
    [NORM.gamma, NORM.beta],
  ),
  "dense": (
    lambda x: DENSE.after(tf.identity, x, input_scale=1.25),
    lambda x: tf.einsum("nhwc,cd->nhwd", 1.25 * x, DENSE.kernel) + DENSE.bias,
    [Z],
    [DENSE.kernel, DENSE.bias],
  ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", quick_rows(MODES, ["eager", "graph"]))
def test_value_and_both_derivatives_are_those_of_the_plain_expression(name, mode):
  ours, plain, arguments, variables = CASES[name]
  of = lambda function: derivatives(function, *arguments, by=[v.value for v in variables])
  assert_same(MODES[mode](lambda: of(ours))(), of(plain), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["concat_elu", "kept concat_elu", "sum", "norm"])
def test_narrow_numbers_are_computed_with_in_float32(name):
  ours, plain, arguments, _ = CASES[name]
  narrow = [tf.cast(t, tf.bfloat16) for t in arguments]
  with tf.GradientTape() as tape:
    tape.watch(narrow)
    y = ours(*narrow)
  wide = [tf.cast(t, tf.float64) for t in narrow]
  with tf.GradientTape() as wide_tape:
    wide_tape.watch(wide)
    expected = plain(*wide)
  found = [y, *tape.gradient(y, narrow)]
  for value, truth in zip(found, [expected, *wide_tape.gradient(expected, wide)], strict=True):
    assert value.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(value, tf.float64), truth, rtol=2**-8, atol=2**-8)  # one rounding, and gamma's


def test_eager_calls_write_no_error_message(monkeypatch):
  # TensorFlow writes one, with the values, where it cannot match tensors with the names that a function has for them.
  x = tf.ones([2, 3, 3, 4])

  def fail(tensor):
    raise AssertionError("a tensor was written out")

  monkeypatch.setattr(type(x), "__repr__", fail)
  fpp.layers.concat_elu(x)
  self_attention(tf.ones([2, 9, 12]), heads=2)

"""What gradients evaluate again rather than keep: the same numbers, and truly evaluated again."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework import meta_graph
from tensorflow.python.grappler import tf_optimizer

import flowpp_tf as fpp
from flowpp_tf.core import remat, tracing
from flowpp_tf.core.context import EvalContext
from flowpp_tf.layers import blocks
from flowpp_tf.layers.kernels import attention
from support.bijector_cases import draw
from support.comparing import assert_same, derivatives, graph_of
from support.marks import exhaustive, slow
from support.models import SMALL, perturbed, small_config, small_images
from support.repeatable import forget_traces


def plain_attention(qkv, heads):
  """Attention as it is written, with autodiff's gradients."""
  positions, filters = qkv.shape[1], qkv.shape[2] // 3
  q, k, v = tf.unstack(tf.reshape(qkv, [-1, positions, 3, heads, filters // heads]), axis=2)
  scores = tf.einsum("nqhd,nkhd->nhqk", q, k) / (filters // heads) ** 0.5
  return tf.reshape(tf.einsum("nhqk,nkhd->nqhd", tf.nn.softmax(scores), v), [-1, positions, filters])


# Of 4 pairs of image and head, with 36 weights each.
@pytest.mark.parametrize("weights_of_a_part", [144, slow(72), 12], ids=["whole", "groups of pairs", "parts of a pair"])
@pytest.mark.parametrize(
  "wrap",
  [lambda f: f, tf.function, exhaustive(lambda f: tf.function(f, jit_compile=True))],
  ids=["eager", "graph", "xla"],
)
def test_attention_has_the_value_and_both_derivatives_of_the_plain_one(monkeypatch, weights_of_a_part, wrap):
  monkeypatch.setattr(attention, "_WEIGHTS", weights_of_a_part)
  attention._traced.cache_clear()
  x = draw(2, 6, 12)
  of = lambda attend: derivatives(lambda x: attend(x, 2), x)
  assert_same(wrap(of)(attention.self_attention), of(plain_attention), rtol=1e-10, atol=1e-12)


# Of images with 72 weights each.
@pytest.mark.parametrize(
  "weights_at_a_time, compiled",
  [slow(72, False), (144, False), slow(10**6, False), slow(144, True)],
  ids=["one image", "two images", "all images", "xla"],
)
def test_attention_of_an_unknown_number_of_images_is_that_of_each(monkeypatch, weights_at_a_time, compiled):
  monkeypatch.setattr(attention, "_WEIGHTS", weights_at_a_time)
  of_any = tf.function(
    lambda x: derivatives(lambda x: attention.self_attention(x, 2), x),
    input_signature=[tf.TensorSpec([None, 6, 12], tf.float64)],
    jit_compile=compiled,
  )
  for count in [3] if compiled else [1, 3, 4]:
    x = draw(count, 6, 12)
    assert_same(of_any(x), derivatives(lambda x: plain_attention(x, 2), x), rtol=1e-10, atol=1e-12)


def test_a_batch_of_unknown_size_takes_the_groups_of_a_known_one_and_no_loop(monkeypatch):
  sizes, weights = [], attention._weights

  def recorded(q, k):
    p = weights(q, k)
    tf.numpy_function(lambda shape: sizes.append(tuple(shape)), [tf.shape(p)], [])
    return p

  monkeypatch.setattr(attention, "_weights", recorded)
  monkeypatch.setattr(attention, "_WEIGHTS", 2 * 64**2)
  function = lambda count: tf.function(lambda x: attention.self_attention(x, 4)).get_concrete_function(
    tf.TensorSpec([count, 64, 12])
  )
  of_any = function(None)
  assert not {"While", "StatelessWhile"} & {op.type for op in of_any.graph.get_operations()}
  for count in (1, 3, 4, 16, 64):
    x = tf.zeros([count, 64, 12])
    groups = []
    for graph in (function(count), of_any):
      sizes.clear()
      graph(x)
      groups.append(sorted(size for size in sizes if size[0]))
    assert groups[0] == groups[1], count
  assert max(groups[0]) == (16, 64, 64)


def nodes_after_grappler(function, *arguments):
  """Types of the operations of a function when TensorFlow has optimised its graph."""
  graph = graph_of(function, *arguments)
  meta = meta_graph.create_meta_graph_def(graph=graph)
  for output in graph.outputs:
    meta.collection_def["train_op"].node_list.value.append(output.name)
  return [node.op for node in tf_optimizer.OptimizeGraph(config_pb2.ConfigProto(), meta).node]


def gradient_of(function):
  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = tf.reduce_sum(tf.square(function(x)))
    return tape.gradient(y, x)

  return gradient


X = tf.ones([2, 8, 12])
CALL = EvalContext(training=True, seed=[1, 2])


def test_attention_weights_are_computed_again_and_grappler_does_not_undo_it():
  ours = nodes_after_grappler(gradient_of(lambda x: attention.self_attention(x, 2)), X)
  assert ours.count("Softmax") == 2
  assert nodes_after_grappler(gradient_of(lambda x: plain_attention(x, 2)), X).count("Softmax") == 1


def test_xla_does_not_undo_it_either():
  compiled = lambda function: (
    tf.function(gradient_of(function), jit_compile=True)
    .experimental_get_compiler_ir(X)(stage="optimized_hlo")
    .count(" exponential(")
  )
  assert compiled(lambda x: attention.self_attention(x, 2)) > compiled(lambda x: plain_attention(x, 2))


def test_a_rematerialized_function_has_the_derivatives_of_the_function():
  x, w = draw(3, 4), draw(4, 2, seed=1)
  mask = tf.constant([[True, False]])
  function = lambda x, skipped, w, mask: tf.where(mask, tf.tanh(tf.matmul(x, w)), 0.0)
  of = lambda function: derivatives(lambda x, w: function(x, None, w, mask), x, w)
  for wait in (False, True):
    for wrap in (lambda f: f, lambda f: tf.function(f, autograph=False)):
      assert_same(wrap(of)(remat.rematerialized(function, wait)), of(function), rtol=1e-10, atol=1e-12)


def bound_and_gradients(config, graph, seed=3):
  model = perturbed(config)
  images = small_images(3)

  def evaluate():
    with tf.GradientTape() as tape:
      bound = model.log_prob_bound(images, seed=seed, training=True)
    gradients = tape.gradient(bound, [v.value for v in model.trainable_variables])
    return bound, [g for g in gradients if g is not None]

  return (tf.function(evaluate, autograph=False) if graph else evaluate)()


@pytest.mark.parametrize(
  "remat_, graph",
  [
    exhaustive("off", True),
    slow("blocks", True),
    exhaustive("blocks", False),
    slow("couplings", True),
    slow("couplings", False),
  ],
)
def test_bound_and_gradients_are_the_same_with_shared_and_with_rematerialized_blocks(remat_, graph):
  config = small_config(SMALL, blocks=2, structure="columns:2", dtype="float64")
  expected = bound_and_gradients(config, graph=False)  # each block on its own
  found = bound_and_gradients(dataclasses.replace(config, remat=remat_), graph)
  assert_same(tf.nest.flatten(found), tf.nest.flatten(expected), rtol=1e-9, atol=1e-11)


def blocks_of(count):
  made = [fpp.layers.ConvAttentionBlock(fpp.layers.NetworkConfig(4, 1, heads=2, dropout=0.5)) for _ in range(count)]
  for block in made:
    block.build((None, 4, 4, 4))
  return made


@pytest.mark.parametrize("traced_before", [False, True])
def test_frozen_weights_keep_their_values(traced_before):
  network = fpp.layers.Conditioner((4, 2, 1), 2, fpp.layers.NetworkConfig(4, 2, heads=2), dtype="float64")
  x = draw(2, 4, 2, 1)
  forget_traces()
  expected = network(x)
  first, last = network.blocks
  for part in (network, first, last.conv_norm, last.mixer_norm, last.conv.conv.kernel):
    if not traced_before:
      forget_traces()
    part.trainable = False
    np.testing.assert_allclose(network(x), expected, rtol=1e-12)
    part.trainable = True


def test_dropout_without_a_seed_has_one_mask_for_value_and_gradient(monkeypatch):
  network = fpp.layers.NetworkConfig(4, 1, "none", dropout=0.5)
  conditioner = fpp.layers.Conditioner((2, 2, 1), fpp.bijectors.num_parameters("affine", 0), network)
  coupling = fpp.bijectors.Coupling(conditioner, fpp.bijectors.affine_coupling_bijector, remat=True)
  masks, keep_mask = [], fpp.layers.Dropout.keep_mask
  monkeypatch.setattr(
    fpp.layers.Dropout, "keep_mask", lambda *args, **kwargs: masks.append(keep_mask(*args, **kwargs)) or masks[-1]
  )
  x = tf.ones([64, 2, 2, 2])
  with tf.GradientTape() as tape:
    tape.watch(x)
    y, _ = coupling.forward_and_log_det(x, EvalContext(training=True))
  tape.gradient(y, x)
  assert masks
  for mask in masks:
    np.testing.assert_array_equal(mask, masks[0])


def test_networks_share_the_function_and_leave_nothing_behind():
  found = []
  for filters in (4, 4, 8):  # the first model is gone when the second is made
    first, second = ([fpp.layers.ConvAttentionBlock(fpp.layers.NetworkConfig(filters, 1, heads=2))] for _ in range(2))
    for block in first + second:
      block.build((None, 4, 4, filters))
    x = tf.zeros([1, 4, 4, filters])
    both = lambda x: blocks.apply_blocks(second, blocks.apply_blocks(first, x, x[0]), x[0])  # noqa: F821  # deleted below
    graph = graph_of(both, x)
    found.append({op.get_attr("f").name for op in graph.get_operations() if op.type.endswith("PartitionedCall")})
    references = [weakref.ref(block) for block in first + second]
    del first, second, block, graph
    gc.collect()
    assert not any(reference() for reference in references)
  assert [len(names) for names in found] == [1, 1, 1]


def test_what_is_known_of_shapes_does_not_depend_on_who_came_before():
  made = blocks_of(1)
  for batch in (None, 3):
    apply = lambda x: blocks.apply_blocks(made, x, tf.zeros([4, 4, 4]))
    graph = graph_of(apply, tf.TensorSpec([batch, 4, 4, 4]))
    (call,) = (op for op in graph.get_operations() if op.type.endswith("PartitionedCall"))
    body = graph._get_function(call.get_attr("f").name).graph
    assert body.outputs[0].shape.as_list() == [batch, 4, 4, 4]


def test_each_block_has_its_own_dropout_mask():
  (one,) = blocks_of(1)
  x = draw(2, 4, 4, 4)
  embedding = tf.zeros([4, 4, 4])
  call = tf.function(
    lambda made: blocks.apply_blocks(made, tf.cast(x, tf.float32), embedding, ctx=CALL), autograph=False
  )
  calls = [EvalContext(training=True, seed=CALL.stream(f"block_{i}")) for i in range(2)]
  alone = one(one(tf.cast(x, tf.float32), embedding, ctx=calls[0]), embedding, ctx=calls[1])
  np.testing.assert_allclose(call([one, one]), alone, rtol=1e-4, atol=1e-5)


@pytest.fixture
def jit():
  yield tracing.set_jit
  tracing.set_jit("off")


@pytest.mark.slow
def test_bound_and_gradients_are_the_same_when_xla_compiles(jit):
  # Without dropout: for a negative seed TensorFlow's generator gives other numbers under XLA.
  config = small_config(SMALL, blocks=2, structure="columns:2", dtype="float64", dropout=0.0)
  expected = bound_and_gradients(config, graph=True)
  jit("blocks")
  found = bound_and_gradients(config, graph=True)
  assert_same(tf.nest.flatten(found), tf.nest.flatten(expected), rtol=1e-9, atol=1e-11)


def test_each_kind_of_block_is_compiled_once(jit):
  jit("blocks")
  model = fpp.FlowPlusPlus(small_config(SMALL, blocks=2, structure="columns:1"))
  bound = lambda images: model.log_prob_bound(images, seed=0)
  graph = graph_of(bound, tf.TensorSpec([2, *SMALL.image_shape], tf.uint8))
  compiled = [
    op.get_attr("f").name
    for op in graph.get_operations()
    if "PartitionedCall" in op.type and op.get_attr("_XlaMustCompile")
  ]
  blocks = [name for name in compiled if "call" in name]
  # a coupling of two blocks, two of the dequantizer of one, and the context net's
  assert len(blocks) == 2 + 2 + 1 and len(set(blocks)) == 3


def test_an_unknown_choice_of_what_to_compile_is_a_value_error_that_names_it():
  with pytest.raises(ValueError, match="`jit` must be one of off, blocks, got 'all'"):
    tracing.set_jit("all")


def test_a_checkpointed_function_has_the_derivatives_of_the_function():
  weight = tf.Variable(draw(3, 3))
  x, condition = draw(2, 3, seed=1), draw(2, 3, seed=2)

  def function(x, condition):
    h = tf.tanh(x @ weight) * condition
    return h, tf.reduce_sum(h**2, axis=-1)

  def gradients(function):
    with tf.GradientTape() as tape:
      tape.watch([x, condition])
      h, total = function(x, condition)
      loss = tf.reduce_sum(tf.sin(h)) + tf.reduce_sum(total)
    return tape.gradient(loss, [x, condition, weight])

  for wrap in (lambda f: f, tf.function):
    assert_same(wrap(lambda: gradients(remat.checkpointed(function)))(), gradients(function), rtol=1e-12)

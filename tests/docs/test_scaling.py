"""The counts behind the pages about scaling against counts by hand, and the pages against their script."""

import dataclasses
import json

import pytest
import tensorflow as tf

import figures
import flowpp_tf as fpp
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.core.remat import rematerialized
import model_counts
import scaling
from support.models import SMALL, VARIANTS
from support.programs import ROOT
from tables import with_tables

pytestmark = pytest.mark.docs

STORED = json.loads(scaling.COUNTS.read_text())


def graph_of(function, *shapes):
  return (
    tf.function(function, autograph=False)
    .get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes))
    .graph.get_operations()
  )


def forward_flops(config):
  """An image's, layer by layer from the paper's description, without a graph."""

  def attention(pixels, filters):  # in, out, scores and their use
    return filters * 3 * filters + filters * 2 * filters + 2 * pixels * filters

  def conditioner(stage, filters, blocks, mixing, context):
    height, width, channels = stage.split_shape
    half, pixels = channels // 2, height * width
    outputs = half * (2 + 3 * config.components)
    block = 9 * 2 * filters * filters + 2 * filters * 2 * filters + 2 * context * filters
    if mixing:
      block += attention(pixels, filters)
    mixing_1x1 = channels * channels if config.invertible_conv == "dense" else 0
    return pixels * (
      mixing_1x1 + 9 * half * filters + blocks * block + 9 * filters * (2 if config.output_concat_elu else 1) * outputs
    )

  def flow(structure, *arguments):
    return sum(
      stage.couplings * conditioner(stage, *arguments)
      for stage in parse_structure(structure, config.image_shape)
      if stage.kind != "squeeze"
    )

  height, width, channels = config.image_shape
  pixels, context = height * width // 2, config.context_channels
  block = 9 * 2 * context * context + 9 * 2 * context * 2 * context
  if config.context_attention:
    block += attention(pixels, context)
  return 2 * (
    flow(config.structure, config.filters, config.blocks, True, 0)
    + flow(config.dequant_structure, config.dequant_filters, config.dequant_blocks, config.dequant_mixing, context)
    + pixels * (9 * 2 * channels * context + config.context_blocks * block)
  )


def attention_again_flops(config):
  """What attention's gradients take beside two products for each: queries times keys once more, and a
  column of sums beside each head's gradient. Of all layers, an image's."""

  def scores(structure, filters, blocks):
    pixels = [
      (stage.couplings, stage.split_shape[0] * stage.split_shape[1])
      for stage in parse_structure(structure, config.image_shape)
      if stage.kind != "squeeze"
    ]
    return sum(couplings * blocks * p * p * (filters + config.heads) for couplings, p in pixels)

  height, width, _ = config.image_shape
  pixels = height * width // 2
  return 2 * (
    scores(config.structure, config.filters, config.blocks)
    + config.dequant_mixing * scores(config.dequant_structure, config.dequant_filters, config.dequant_blocks)
    + config.context_attention * config.context_blocks * pixels**2 * (config.context_channels + config.heads)
  )


@pytest.mark.parametrize("name", ["published", "imagenet32", "imagenet64"])
def test_counted_flops_are_those_of_the_layers(name):
  config = dataclasses.replace(VARIANTS[name], structure="columns:2,squeeze,channels:1")
  model = fpp.FlowPlusPlus(config)
  operations = graph_of(lambda x: model.log_prob_bound(tf.cast(x, tf.uint8), seed=0), [3, *config.image_shape])
  assert model_counts.count_flops(operations) == 3 * forward_flops(config)


@pytest.mark.parametrize("policy", scaling.POLICIES)
@pytest.mark.parametrize("name", scaling.CONFIGS)
def test_stored_counts_are_of_the_present_configs(name, policy):
  counts, config = STORED["counted"][name][policy], fpp.get_config(name)
  assert counts["forward_flops_image"] == forward_flops(config)
  assert f"{counts['parameters']:,} parameters" in (ROOT / f"configs/{name}.flags").read_text()
  # The gradients by input and by kernel are a product of the forward one's size each, but none is
  # taken by the image that the context net reads.
  height, width, channels = config.image_shape
  input_conv = 2 * height * (width // 2) * 9 * 2 * channels * config.context_channels
  expected = 3 * counts["forward_flops_image"] + attention_again_flops(config)
  assert 0 <= expected - counts["training_flops_image"] <= input_conv


def test_what_nothing_needs_is_not_counted():
  def gradient(x, w):
    with tf.GradientTape() as tape:
      tape.watch(w)
      y = rematerialized(lambda x, w: tf.matmul(tf.tanh(x), w))(x, w)
    return tape.gradient(y, w)

  called = tf.function(gradient, autograph=False)
  for function in (gradient, called):
    graph = (
      tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([6, 3]), tf.TensorSpec([3, 5])).graph
    )
    # The gradient by w alone: nothing needs the value, nor that of the second evaluation.
    assert model_counts.count_flops(model_counts.live_operations(graph)) == 2 * 6 * 3 * 5


def test_products_of_every_kind_and_of_called_functions():
  def products(x, kernel, w):
    called = tf.function(lambda a: tf.matmul(a, w), autograph=False)
    y = tf.nn.conv2d(x, kernel, 1, "SAME")  # [2, 6, 4, 5]
    return (called(tf.reshape(y, [48, 5])), tf.matmul(y, y, transpose_a=True), tf.einsum("nhwc,...cd->nhw...d", y, w))

  shapes = [2, 6, 4, 8], [3, 3, 8, 5], [5, 7]
  macs = 48 * 9 * 8 * 5 + 48 * 5 * 7 + 12 * 5 * 4 * 5 + 48 * 5 * 7
  assert model_counts.count_flops(graph_of(products, *shapes)) == 2 * macs

  def with_gradient(x, kernel):
    return tf.gradients(tf.nn.conv2d(x, kernel, 1, "SAME"), [x, kernel])

  assert model_counts.count_flops(graph_of(with_gradient, *shapes[:2])) == 2 * 3 * 48 * 9 * 8 * 5


@pytest.mark.parametrize(
  "function, message",
  [
    (lambda x: tf.while_loop(lambda x: tf.norm(x) < 9.0, lambda x: [x @ x], [x]), "number of times"),
    (
      lambda x: tf.nn.depthwise_conv2d(
        x[tf.newaxis, ..., tf.newaxis], x[..., tf.newaxis, tf.newaxis], [1, 1, 1, 1], "SAME"
      ),
      "no rule",
    ),
  ],
)
def test_what_cannot_be_counted_is_refused(function, message):
  with pytest.raises(ValueError, match=message):
    model_counts.count_flops(graph_of(function, [4, 4]))


def test_the_dearest_branch_counts():
  branches = graph_of(
    lambda x: tf.switch_case(tf.cast(x[0, 0], tf.int32), [lambda: x, lambda: x @ (x @ x), lambda: x @ x]), [4, 4]
  )
  assert model_counts.count_flops(branches) == 2 * 2 * 4**3
  skip = graph_of(lambda x: tf.cond(tf.reduce_all(x[0] > 0), lambda: x @ x, lambda: x), [4, 4])
  assert model_counts.count_flops(skip) == 2 * 4**3
  kernels, _ = model_counts.count_kernels(skip)
  assert kernels == 4  # the slice, >, all, and the product


def test_shapes_that_are_not_known_are_refused_and_loops_without_products_are_free():
  with pytest.raises(ValueError, match="not known"):
    model_counts.count_flops(graph_of(lambda x: x @ x, [None, None]))
  loop = graph_of(lambda x: tf.while_loop(lambda x: tf.norm(x) < 9.0, lambda x: [x + 1], [x]), [4, 4])
  assert model_counts.count_flops(loop) == 0
  with pytest.raises(ValueError, match="number of times"):
    model_counts.count_kernels(loop)


def test_saved_bytes_are_those_that_the_gradient_reads():
  sizes = []

  def gradient(x, w):
    h = tf.tanh(x @ w)  # saved, once, though three operations read it
    loss = tf.reduce_sum(tf.reshape(h, [-1]) * tf.sin(tf.reshape(h + 1, [-1])))  # h + 1, its sine
    sizes.append(len(loss.graph.get_operations()))
    return tf.gradients(loss, w)

  operations = graph_of(gradient, [6, 3], [3, 5])
  forward, backward = operations[: sizes[0]], operations[sizes[0] :]
  assert model_counts.count_saved_bytes(forward, backward) == 3 * 6 * 5 * 4


def test_what_calls_return_twice_pass_on_or_read_of_a_variable_is_saved_once():
  weights = tf.Variable(tf.zeros([5, 5]))
  block = tf.function(  # its gradient reads tanh, x and the weights
    lambda x: tf.reshape(tf.tanh(x @ weights), [-1, 5]), autograph=False, experimental_attributes={"_noinline": True}
  )
  sizes = []

  def gradient(x):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(tf.sin(block(block(x))))
    sizes.append(len(loss.graph.get_operations()))
    return tape.gradient(loss, weights)

  operations = graph_of(gradient, [6, 5])
  calls = [op for op in operations if "PartitionedCall" in op.type]
  assert len(calls) == 4 and len(calls[0].outputs) > 1  # so the functions are not inlined
  forward, backward = operations[: sizes[0]], operations[sizes[0] :]
  assert model_counts.count_saved_bytes(forward, backward) == 2 * 6 * 5 * 4
  assert model_counts.count_flops(forward) == 2 * 2 * 6 * 5 * 5
  # Twice a product and tanh of 6 x 5, and on the result sine and its sum.
  assert model_counts.count_kernels(forward) == (6, 4 * (2 * (30 + 25 + 30 + 30 + 30) + 60 + 30 + 2 + 1))


def test_kernels_and_traffic():
  variable = tf.Variable(tf.zeros([100]))

  def update(x):
    exponential = tf.exp(tf.reshape(x, [100]))  # reads one, writes one; the view is free
    variable.assign_add(exponential)  # reads two, writes one
    variable.assign(tf.reshape(x, [100]))  # reads one, writes one
    return tf.shape(x)

  assert model_counts.count_kernels(graph_of(update, [10, 10])) == (3, 7 * 100 * 4)


def test_kernels_and_traffic_of_a_compiled_module():
  module = """HloModule m
%fused (p: f32[9]) -> f32[9] {
  %p = f32[9]{0} parameter(0)
  ROOT %sine = f32[9]{0} sine(%p)
}
ENTRY %main (a: f32[4,6], n: s64[]) -> (f32[4,4], pred[4,4]) {
  %a = f32[4,6]{1,0} parameter(0), metadata={op_name="XLA_Args"}
  %n = s64[] parameter(1)
  %copy.1 = f32[4,6]{1,0} copy(%a)
  %dot.2 = f32[4,4]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %low = bf16[4,4]{1,0} fusion(%dot.2, %n), kind=kLoop, calls=%fused
  %pair = (f32[4,4]{1,0}, /*index=1*/pred[4,4]{1,0}) custom-call(%low), custom_call_target="x"
  %get-tuple-element = f32[4,4]{1,0} get-tuple-element(%pair), index=0
  ROOT %tuple = (f32[4,4]{1,0}) tuple(%get-tuple-element)
}
"""
  dot, low, pair = 4 * (24 + 16), 4 * 16 + 8 + 2 * 16, 2 * 16 + (4 + 1) * 16
  assert model_counts.count_instructions(module) == (3, dot + low + pair)


@pytest.mark.slow
def test_a_model_is_linear_in_the_batch():
  model = fpp.FlowPlusPlus(dataclasses.replace(SMALL, structure="squeeze,channels:1", dequant_structure="columns:1"))
  two, three, six = (model_counts.trace_pass(model, batch) for batch in (2, 3, 6))
  for name in ("forward_flops", "flops", "saved", "traffic"):
    assert six[name] == two[name] + 4 * (three[name] - two[name]), name
  for name in ("kernels", "gradients"):
    assert two[name] == three[name] == six[name], name


def test_the_pages_hold_what_the_script_prints():
  pages = {path: path.read_text() for path in scaling.PAGES}
  assert with_tables(pages, scaling.tables(STORED)) == pages
  days = "at least {cifar10_days_h100} days of one H100, {cifar10_days_a100} of an A100, {cifar10_days_v100}\nof a V100"
  assert days.format(**figures.days_of_cifar10()) in pages[scaling.PAGES[0]]
  assert set(scaling.CONFIGS) == set(STORED["counted"])


def test_bounds_of_a_step():
  counts = dict(
    parameters=10,
    gradients=8,
    training_flops_image=3e9,
    saved_bytes_image=20e9,
    saved_bytes_pass=0,
    traffic_bytes_image=9e9,
    traffic_bytes_pass=18e9,
    traffic_bytes_update=27e9,
    kernels_pass=1000,
    kernels_update=200,
  )
  gpu = scaling.GPU("a GPU", 90e9, 900e9, 1e-6, ())
  assert scaling.largest_batch(counts, gpu) == 4  # 81 GB of the 90
  # 10 images a GPU in three passes.
  assert scaling.step_seconds(counts, gpu, 1e12, 20, 2) == pytest.approx(
    dict(products=0.1, memory=0.19, launches=0.016, all_reduce=32e6)
  )

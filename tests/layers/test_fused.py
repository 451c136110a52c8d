"""A block of a conditioner: graphs take another form of it, which is its plain formula in less time and memory."""

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.core.context import EvalContext

X, CONTEXT, EMBEDDING = (
  tf.constant(np.random.RandomState(i).randn(*shape)) for i, shape in enumerate([(2, 4, 3, 4), (2, 4, 3, 6), (4, 3, 4)])
)
TRAINING = EvalContext(training=True, seed=tf.constant([1, 2]), batch_offset=3)
KINDS = {  # options, the context of its calls, of the evaluation
  "attention": (dict(), None, EvalContext()),
  "with context and dropout": (dict(use_context=True, dropout=0.4), CONTEXT, TRAINING),
  "pointwise with weight norm": (dict(mixer="pointwise", weight_norm=True, dropout=0.4), None, TRAINING),
  "convolution only": (dict(mixer="none", output_kernel_size=3), None, EvalContext()),
  "without layer norm": (dict(layer_norm=False, dropout=0.4), None, TRAINING),
}


@pytest.mark.parametrize("kind", KINDS)
def test_in_graphs_it_has_the_value_and_both_derivatives_of_the_plain_formula(kind):
  options, context, ctx = KINDS[kind]
  block = fpp.layers.ConvAttentionBlock(4, heads=2, dtype="float64", **options)
  block.build(X.shape, EMBEDDING.shape, context if context is None else context.shape)
  for i, weight in enumerate(block.trainable_variables):
    weight.assign_add(0.3 * np.random.RandomState(i).randn(*weight.shape))
  variables = [v.value for v in block.trainable_variables]
  inputs = [X, EMBEDDING, *([] if context is None else [context])]

  def derivatives():
    with tf.GradientTape() as outer:
      outer.watch(inputs)
      with tf.GradientTape() as inner:
        inner.watch(inputs)
        y = block(*inputs[:2], *inputs[2:] or [None], ctx=ctx)
      gradients = inner.gradient(
        y, [*inputs, *variables], output_gradients=y, unconnected_gradients=tf.UnconnectedGradients.ZERO
      )
      total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradients])
    return [
      y,
      *gradients,
      *outer.gradient(total, [*inputs, *variables], unconnected_gradients=tf.UnconnectedGradients.ZERO),
    ]

  plain = derivatives()  # in eager mode
  traced = tf.function(derivatives, autograph=False, reduce_retracing=True)
  for found, expected in zip(traced(), plain, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
  "options, inputs, message",
  [
    (dict(), (None, CONTEXT), "`context` must be None: see `use_context`"),
    (dict(use_context=True), (EMBEDDING, None), "`context` must be given: see `use_context`"),
    (dict(use_context=True), (None, CONTEXT[..., :5]), r"`context` must be of shape \[N, H, W, 6\]"),
    (dict(), (EMBEDDING[:1, :1], None), r"`position_embedding` must be of shape \[4, 3, 4\], got \(1, 1, 4\)"),
  ],
)
def test_in_graphs_it_refuses_what_the_plain_formula_refuses(options, inputs, message):
  block = fpp.layers.ConvAttentionBlock(4, heads=2, dtype="float64", **options)
  block.build(X.shape, context_shape=CONTEXT.shape)
  with pytest.raises(ValueError, match=message):
    tf.function(block, autograph=False)(X, *inputs)


def test_a_context_of_one_image_is_that_of_all():
  block = fpp.layers.ConvAttentionBlock(4, "none", use_context=True, dtype="float64")
  expected = block(X, context=tf.repeat(CONTEXT[:1], 2, axis=0))
  for call in (block, tf.function(block, autograph=False)):
    np.testing.assert_allclose(call(X, context=CONTEXT[:1]), expected, rtol=1e-12)

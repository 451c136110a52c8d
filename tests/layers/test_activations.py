"""What is between the products of a block: value and both derivatives are those of plain expressions by autodiff."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.layers import concat_elu, gate
from flowpp_tf.layers.kernels import pointwise
from flowpp_tf.layers.kernels.attention import self_attention
from support.bijector_cases import draw
from support.comparing import MODES, assert_same, derivatives

X, H, KEEP = draw(2, 3, 2, 4), draw(2, 3, 2, 8, seed=1), draw(2, 3, 2, 8, seed=2) > 0
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


def plain_concat_elu(x, keep):
  y = tf.concat([x, -x], axis=-1)
  y = tf.where(y > 0, y, tf.exp(y) - 1)
  return y if keep is None else tf.where(keep, y, tf.zeros_like(y))


def plain_norm(x):
  mean = tf.reduce_mean(x, axis=-1, keepdims=True)  # `tf.nn.moments` has wrong second derivatives
  variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
  return (x - mean) / tf.sqrt(variance + pointwise.LAYER_NORM_EPSILON) * NORM.gamma + NORM.beta


CASES = {  # ours, plain, arguments, variables
  "gate": (gate, plain_gate, [H], []),
  "concat_elu": (concat_elu, lambda x: plain_concat_elu(x, None), [X], []),
  "kept concat_elu": (lambda x: pointwise.kept_concat_elu(x, KEEP), lambda x: plain_concat_elu(x, KEEP), [X], []),
  "kept": (lambda h: pointwise.kept_values(h, KEEP), lambda h: tf.where(KEEP, h, tf.zeros_like(h)), [H], []),
  "sum": (pointwise.gated_sum, lambda x, h: x + plain_gate(h), [X, H], []),
  "norm": (
    lambda x, h: pointwise.gated_sum(x, h, *map(tf.convert_to_tensor, (NORM.gamma, NORM.beta))),
    lambda x, h: plain_norm(x + plain_gate(h)),
    [X, H],
    [NORM.gamma, NORM.beta],
  ),
  "dense": (
    lambda x: DENSE.after(tf.identity, x, input_scale=1.25),
    lambda x: tf.einsum("nhwc,cd->nhwd", 1.25 * x, DENSE.kernel) + DENSE.bias,
    [X],
    [DENSE.kernel, DENSE.bias],
  ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", MODES)
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

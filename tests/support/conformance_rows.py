"""The rows of the conformance suite: every public bijector, layer, distribution and every model.

A row says how to make the object that holds the variables, what to evaluate of it, and on what.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import flowpp_tf as fpp
from support.bijector_cases import CASES, draw, with_variables
from support.models import CONDITIONED, SMALL, VARIANTS, perturb, perturbed, small_config, small_images


class Row(NamedTuple):
  make: Callable  # dtype, seed of the weights of networks -> what holds the variables
  evaluate: Callable  # (what was made, *inputs) -> dict of tensors, batch first
  inputs: Callable  # dtype -> tuple of tensors, batch first


def _bijector_row(case):
  def evaluate(bijector, x):
    y = bijector.forward(x)
    apart = tf.identity(y)  # which the cache does not know: the inverse is computed
    whole = lambda log_det: tf.broadcast_to(log_det, tf.shape(x)[:1])
    return dict(
      y=y,
      fldj=whole(bijector.forward_log_det_jacobian(x, 3)),
      x=bijector.inverse(apart),
      ildj=whole(bijector.inverse_log_det_jacobian(apart, 3)),
    )

  return Row(
    lambda dtype, seed=0: with_variables(case.make(dtype)),
    evaluate,
    lambda dtype: (case.sample((4, *case.event), dtype),),
  )


def _model(config, dtype, seed, structure="columns:1"):
  return perturbed(config, seed=seed, dtype=dtype, structure=structure, dequant_structure="columns:1")


def _images_and_noise(dtype, channels=2):
  noise = np.random.RandomState(1).uniform(0.01, 0.99, [4, 4, 4, channels])
  return tf.constant(small_images(4)), tf.constant(noise, dtype)


def _evaluate_dequantizer(dequantizer, images, noise):
  q = dequantizer.posterior(images)
  u, log_q = q.transform(noise)
  return dict(u=u, log_q=log_q, log_prob=q.log_prob(tf.identity(u)))  # computed, not from the cache


def _evaluate_flow(flow, images, noise):
  x = tf.cast(images, noise.dtype) + noise
  z = tf.reshape(2 * noise - 1, tf.shape(flow.bijector.inverse(x)))
  return dict(log_prob=flow.log_prob(x), sample=flow.bijector.forward(z))


def _evaluate_given(layer, x, context):
  given = layer.distribution.given(context)
  return dict(log_prob=given.log_prob(x), sample=given.bijector.forward(tf.identity(x)))


def _without_draws(model):
  """The model with constant noise: draws depend on the dtype, and on XLA."""
  model.sample_noise = lambda shape, seed: tf.fill(
    [*shape, *model.config.image_shape], tf.cast(0.4, model.variable_dtype)
  )
  return model


def _layer_row(make, *shapes):
  """A row of a layer: `make(dtype)`, and the shapes of its inputs without the batch."""

  def made(dtype, seed=0):
    keras.utils.set_random_seed(seed)
    layer = make(dtype)
    if not layer.built:
      layer.build(*((None, *shape) for shape in shapes[:1]))
    return perturb(layer, seed=seed)

  return Row(
    made,
    lambda layer, *inputs: dict(y=layer(*inputs)),
    lambda dtype: tuple(draw(4, *shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)),
  )


def _evaluate_model(model, images, noise, labels=None, condition=None):
  return dict(bound=model.log_prob_bound(images, noise=noise, labels=labels, condition=condition))


VECTORS = dict(couplings=2, components=3, hidden=8, blocks=1)


def ensemble(dtype):
  """Two flows of three values, with a context of two."""
  return fpp.ensemble([fpp.vector_flow(3, 2, **VECTORS, dtype=dtype) for _ in range(2)])


def embedded_layer(dtype):
  """A flow in a box, given a series that a network reads."""
  inner = [keras.layers.Flatten(dtype=dtype), keras.layers.Dense(2, "tanh", dtype=dtype)]
  network = keras.Sequential([keras.Input([5, 1], dtype=dtype), *inner])
  return fpp.VectorFlow(2, **VECTORS, support=fpp.support.box(-9.0, 9.0), embedding=network, dtype=dtype)


BIJECTOR_ROWS = {name: _bijector_row(case) for name, case in CASES.items()}
DISTRIBUTION_ROWS = {
  "uniform_dequantizer": Row(
    lambda dtype, seed=0: _model(VARIANTS["uniform"], dtype, seed).dequantizer, _evaluate_dequantizer, _images_and_noise
  ),
  "variational_dequantizer": Row(
    lambda dtype, seed=0: _model(VARIANTS["imagenet32"], dtype, seed).dequantizer,
    _evaluate_dequantizer,
    _images_and_noise,
  ),
  "flow": Row(
    lambda dtype, seed=0: _model(SMALL, dtype, seed, "columns:1,squeeze,channels:1").flow,
    _evaluate_flow,
    _images_and_noise,
  ),
  "given": _layer_row(lambda d: fpp.VectorFlow(3, 2, **VECTORS, dtype=d), (3,), (2,))._replace(
    evaluate=_evaluate_given
  ),
  "images": Row(
    lambda dtype, seed=0: _without_draws(_model(SMALL, dtype, seed)).distribution,
    lambda distribution, images, noise: dict(log_prob=distribution.log_prob(images)),
    _images_and_noise,
  ),
}
NETWORK = fpp.layers.NetworkConfig(4, 2, heads=2)
NETWORK_OF_CONDITION = fpp.layers.NetworkConfig(4, 1, "none")
LAYER_ROWS = {
  "conv": _layer_row(lambda d: fpp.layers.InitNormConv2D(3, weight_norm=True, dtype=d), (4, 4, 2)),
  "dense": _layer_row(lambda d: fpp.layers.InitNormDense(3, dtype=d), (4, 4, 2)),
  "dropout": _layer_row(lambda d: fpp.layers.Dropout(0.5, dtype=d), (4, 4, 2)),
  "gated_conv_periodic": _layer_row(lambda d: fpp.layers.GatedConv(4, 3, padding="periodic", dtype=d), (4, 4, 4)),
  "gated_conv": _layer_row(lambda d: fpp.layers.GatedConv(4, dtype=d), (4, 4, 4)),
  "gated_attention": _layer_row(lambda d: fpp.layers.GatedAttention(4, 2, dtype=d), (4, 4, 4), (4, 4, 4)),
  "gated_pointwise": _layer_row(lambda d: fpp.layers.GatedPointwise(4, dtype=d), (4, 4, 4), (4, 4, 4)),
  "block": _layer_row(lambda d: fpp.layers.ConvAttentionBlock(NETWORK, dtype=d), (4, 4, 4), (4, 4, 4)),
  "conditioner": _layer_row(lambda d: fpp.layers.Conditioner((4, 4, 2), 6, NETWORK, dtype=d), (4, 4, 2)),
  "dense_conditioner": _layer_row(lambda d: fpp.layers.DenseConditioner(3, 4, 8, dtype=d), (3,)),
  "flow_layer": _layer_row(lambda d: fpp.layers.Flow(fpp.vector_flow(3, **VECTORS, dtype=d), dtype=d), (3,)),
  "ensemble_layer": _layer_row(lambda d: fpp.layers.Flow(ensemble(d), dtype=d), (3,), (2,)),
  "vector_flow_of_one_value": _layer_row(lambda d: fpp.VectorFlow(1, 2, **VECTORS, dtype=d), (1,), (2,)),
  "vector_flow_layer": _layer_row(lambda d: fpp.VectorFlow(3, 2, **VECTORS, dtype=d), (3,), (2,)),
  "embedded_layer": _layer_row(embedded_layer, (2,), (5, 1)),
  "label_embedding": Row(
    lambda dtype, seed=0: fpp.layers.LabelEmbedding(3, 4, dtype=dtype),
    lambda layer, labels: dict(y=layer(labels)),
    lambda dtype: (tf.constant([0, 2, -1, 1]),),
  ),
  "condition_net": Row(
    lambda dtype, seed=0: fpp.layers.ConditionNet((4, 4, 2), 3, (2, 2, 1), NETWORK_OF_CONDITION, dtype=dtype),
    lambda layer, labels, condition: dict(y=layer(labels, condition)),
    lambda dtype: (tf.constant([0, 2, -1, 1]), draw(4, 2, 2, 1, dtype=dtype)),
  ),
  "context_net": _layer_row(lambda d: fpp.layers.ContextNet((4, 4, 2), 8, NETWORK, dtype=d), (4, 4, 2)),
}
MODEL_ROWS = {
  f"model_{name}": Row(
    lambda dtype, seed=0, config=config: _model(config, dtype, seed),
    _evaluate_model,
    functools.partial(_images_and_noise, channels=config.flow_shape[-1]),
  )
  for name, config in VARIANTS.items()
}
CONDITIONAL = small_config(SMALL, **CONDITIONED)
MODEL_ROWS["model_conditional"] = MODEL_ROWS["model_published"]._replace(
  make=lambda dtype, seed=0: _model(CONDITIONAL, dtype, seed),
  inputs=lambda dtype: (*_images_and_noise(dtype), tf.constant([0, 1, 2, -1]), draw(4, 2, 2, 1, dtype=dtype)),
)
ROWS = {**BIJECTOR_ROWS, **LAYER_ROWS, **DISTRIBUTION_ROWS, **MODEL_ROWS}
# Rows that take seconds and are of the same code as others, except for the switches that a model has.
HEAVY = [name for name in MODEL_ROWS if name != "model_published"]
# Of these, the ones whose switches the other three have together; test_model.py has all of them against autodiff.
OTHERS_STAND_FOR = sorted({*HEAVY} - {"model_imagenet32", "model_augmented_vflow", "model_conditional"})
# Parts of a model, as heavy as one, for which it stands too.
PARTS = ["flow", "variational_dequantizer"]
# The rows that stand for all in quick tests of promises that take seconds to look at; the last three hold others.
FEW = ["act_norm", "conv_lu", "pixels_to_logit", "chain", "conditioner", "vector_flow_layer"]
WITHOUT_VARIABLES = {
  "pixels_to_logit",
  "logit_margin",
  "sigmoid",
  "on_support",
  "simplex",
  "squeeze",
  "swap_halves",
  "split_columns",
  "scalar_chain",
  "dropout",
  "uniform_dequantizer",
}


def variables(subject):
  """The trainable `tf.Variable`s of a TFP object or a Keras one."""
  return [v if isinstance(v, tf.Variable) else v.value for v in subject.trainable_variables]


def copy_variables(source, target):
  for from_variable, to_variable in zip(variables(source), variables(target), strict=True):
    to_variable.assign(tf.cast(from_variable, to_variable.dtype))


def signature(inputs):
  """The inputs' specs with an unknown batch size."""
  return [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in inputs]

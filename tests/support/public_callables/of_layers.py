"""Keras layers: constructors and calls, and the functions of networks."""

import keras
import tensorflow as tf

from flowpp_tf import layers
from flowpp_tf.core.context import EvalContext
from support.public_callables.row import Row, look, row
from support.public_callables.world import CONTEXT, LABELS, NORMAL, POINTS
from support.wrong_values import (
  OF_KERAS,
  count,
  flag,
  instance,
  keras_input,
  labels,
  mapping,
  name,
  number,
  optional,
  real,
  same,
  seed,
  shape,
)

NETWORK = layers.NetworkConfig(4, 1, "none")
RATE = number(0.0, low=0, high=1).named("rate")
# A call of a layer must be told what is of another rank or has other channels; height and width may be any.
H_AND_W = tuple(f"size {size} of axis {axis}" for size in ("0", "1", "+ 1") for axis in (1, 2))


def _of_inputs(*shapes):
  """Look at a layer: what it makes of inputs."""

  def outputs(layer):
    keras.utils.set_random_seed(0)
    layer.build(*((None, *shape) for shape in shapes[:1]))
    for variable in layer.weights:
      variable.assign(NORMAL(*variable.shape))
    return look(layer(*(tf.constant(NORMAL(3, *shape)) for shape in shapes)))

  return outputs


def _call(make, **arguments):
  """A row of a layer's call; the layer has the same weights in all calls."""
  made = []

  def call(w):
    if not made:
      layer = make()
      if not layer.built:
        layer.build((None, *next(iter(arguments.values())).valid.shape[1:]))
      for variable in layer.weights:
        variable.assign(NORMAL(*variable.shape))
      made.append(layer)
    return made[0]

  return Row(call, arguments)


def _image(channels, **kwargs):
  return (
    keras_input(NORMAL(3, 4, 4, channels), event=3, batch=1, **kwargs)
    .but(*H_AND_W)
    .named("context", "position_embedding")
  )


EMBEDDING = optional(keras_input(NORMAL(4, 4, 4), event=3)).but("size 1 of axis 0", "size 1 of axis 1")
CONTEXT_OF_IMAGES = optional(keras_input(NORMAL(3, 4, 4, 2), event=3, batch=1)).but(
  "size 1 of axis 1", "size 1 of axis 2"
)

ROWS = {
  "NetworkConfig": row(
    filters=count(4, huge=same(2**62)),
    blocks=count(1, low=0, huge=same(2**62)),
    mixer=name("attention"),
    heads=count(2, huge=None),
    dropout=RATE.also(("1", 1.0)),
    padding=name("periodic"),
  ),
  "NetworkConfig.from_config": row(config=instance(NETWORK).named("network")),
  "ConditionNet": row(
    image_shape=(4, 4, 2),
    num_classes=count(3, low=0),
    condition_shape=shape((2, 2, 1)).but("empty"),
    network=optional(instance(NETWORK)),
  ),
  "Conditioner": row(image_shape=(4, 4, 2), outputs=3, network=instance(NETWORK), context_channels=count(2, low=0)),
  "ContextNet": row(image_shape=(4, 4, 2), levels=8, network=instance(NETWORK)),
  "ConvAttentionBlock": row(network=instance(NETWORK), look=_of_inputs((4, 4, 4))),
  "DenseConditioner": row(
    size=2,
    outputs=3,
    hidden=4,
    blocks=count(1, low=0),
    context_size=count(2, low=0),
    output_mean=optional(real(NORMAL(3), event=1, finite=True, cast="all")),
  ),
  "Dropout": row(rate=RATE, look=lambda layer: look(layer(tf.constant(NORMAL(3, 4)), training=True, seed=[1, 2]))),
  "GatedAttention": row(filters=4, heads=2, dropout=RATE, look=_of_inputs((4, 4, 4))),
  "GatedConv": row(filters=4, output_kernel_size=3, dropout=RATE, padding=name("periodic"), look=_of_inputs((4, 4, 4))),
  "GatedPointwise": row(filters=4, dropout=RATE, look=_of_inputs((4, 4, 4))),
  "InitNormConv2D": row(
    filters=3, init_scale=number(1.0, 0, ends=False), padding=name("periodic"), look=_of_inputs((4, 4, 2))
  ),
  "InitNormDense": row(units=3, init_scale=number(1.0, 0, ends=False), look=_of_inputs((4, 4, 2))),
  "LabelEmbedding": row(num_classes=3, channels=4),
  "Flow": row(distribution=lambda w: w.flow),
  # --- Calls
  "ConditionNet.call": _call(
    lambda: layers.ConditionNet((4, 4, 2), 3, (2, 2, 1), NETWORK),
    labels=labels(LABELS, 3, -1, one=False).but("too large", "negative", "2^40", *OF_KERAS).named("condition"),
    condition=keras_input(NORMAL(3, 2, 2, 1), event=3, batch=1, cast="all"),
    ctx=instance(EvalContext()),
  ),
  "Conditioner.call": _call(
    lambda: layers.Conditioner((4, 4, 2), 3, NETWORK),
    x=keras_input(NORMAL(3, 4, 4, 2), event=3, batch=1),
    ctx=instance(EvalContext()),
  ),
  "ContextNet.call": _call(
    lambda: layers.ContextNet((4, 4, 2), None, NETWORK),
    images=keras_input(NORMAL(3, 4, 4, 2), event=3, batch=1, cast="all"),
    ctx=instance(EvalContext()),
  ),
  "ConvAttentionBlock.call": _call(
    lambda: layers.ConvAttentionBlock(layers.NetworkConfig(4, 1, heads=2)),
    x=_image(4),
    position_embedding=EMBEDDING,
    ctx=instance(EvalContext()),
  ),
  "ConvAttentionBlock.call/context": row(
    lambda w: _given_context(layers.ConvAttentionBlock(NETWORK, use_context=True)),
    x=_image(4),
    context=CONTEXT_OF_IMAGES._replace(optional=False),
  ),
  "DenseConditioner.call": _call(
    lambda: layers.DenseConditioner(2, 3, 4, 1), x=keras_input(POINTS, event=1), ctx=instance(EvalContext())
  ),
  "Dropout.call": _call(
    lambda: layers.Dropout(0.5),
    inputs=keras_input(NORMAL(3, 4)),
    training=flag(True).but("None"),
    seed=seed([1, 2]),
    batch_offset=count(0, low=0, huge=same(2**62)),
  ),
  "GatedAttention.call": _call(
    lambda: layers.GatedAttention(4, 2), x=_image(4), position_embedding=EMBEDDING, ctx=instance(EvalContext())
  ),
  "GatedConv.call": _call(lambda: layers.GatedConv(4), x=_image(4), ctx=instance(EvalContext())),
  "GatedConv.call/context": row(
    lambda w: _given_context(layers.GatedConv(4, use_context=True)),
    x=_image(4),
    context=CONTEXT_OF_IMAGES._replace(optional=False),
  ),
  "GatedPointwise.call": _call(
    lambda: layers.GatedPointwise(4), x=_image(4), position_embedding=EMBEDDING, ctx=instance(EvalContext())
  ),
  "InitNormConv2D.call": _call(
    lambda: layers.InitNormConv2D(3), x=_image(2).but("an axis too many"), initialize=flag(False)
  ),
  "InitNormDense.call": _call(
    lambda: layers.InitNormDense(3), x=keras_input(NORMAL(3, 2), event=1), initialize=flag(False)
  ),
  "LabelEmbedding.call": _call(
    lambda: layers.LabelEmbedding(3, 4),
    labels=labels(LABELS, 3, -1, exact=False, one=False).but("too large", "negative", "2^40", *OF_KERAS),
  ),
  # --- Flows as layers
  **{
    f"{cls}.{method}": value
    for cls in ("Flow", "VectorFlow")
    for method, value in {
      "call": row(lambda w: w.layer, x=keras_input(POINTS, event=1)),
      "call/context": row(
        lambda w: w.layer_given,
        x=keras_input(POINTS, event=1),
        context=keras_input(CONTEXT, event=1).but("an axis too few").also(("None", None)),
      ),
      "adapt": row(
        lambda w: w.layer.adapt,
        x=keras_input(POINTS, event=1, finite=True),
        overwrite=flag(True),
        reset=lambda w: w.reset(w.layer),
      ),
      "adapt/context": row(
        lambda w: lambda x, context: w.layer_given.adapt(x, context, overwrite=True),
        x=keras_input(POINTS, event=1, finite=True),
        context=keras_input(CONTEXT, event=1, finite=True).but("an axis too few"),
        reset=lambda w: w.reset(w.layer_given),
      ),
      "initialize": row(
        lambda w: w.layer.initialize,
        x=keras_input(POINTS, event=1, finite=True),
        overwrite=flag(True),
        reset=lambda w: w.reset(w.layer),
      ),
      "initialize/context": row(
        lambda w: lambda x, context: w.layer_given.initialize(x, context, True),
        x=keras_input(POINTS, event=1, finite=True),
        context=keras_input(CONTEXT, event=1, finite=True).but("an axis too few"),
        reset=lambda w: w.reset(w.layer_given),
      ),
      "sample": row(
        lambda w: w.layer.sample, n=count(2, low=0).but("list", "array", "vector tensor"), seed=seed((0, 1)).but("huge")
      ),
      "sample/context": row(
        lambda w: lambda n, context: w.layer_given.sample(n, context, seed=(0, 1)),
        n=count(2, low=0).but("list", "array", "vector tensor"),
        context=keras_input(CONTEXT, event=1).but("an axis too few"),
      ),
      "set_weights": row(
        lambda w: w.layer.set_weights,
        weights=mapping(lambda w: w.layer.get_weights()).but("None"),
        reset=lambda w: w.reset(w.layer),
      ),
    }.items()
  },
  # --- Functions
  "concat_elu": row(x=real(NORMAL(3, 4), cast="floats")),
  "gate": row(x=real(NORMAL(3, 4), cast="floats").also(("odd", NORMAL(3, 3)), ("a number", 1.0))),
  "fold_in": row(seed=seed([1, 2]).but("huge"), salt=instance("dropout").but("text", "number")),
}


def _given_context(layer):
  keras.utils.set_random_seed(0)
  layer.build((None, 4, 4, 4), context_shape=(None, 4, 4, 2))
  for variable in layer.weights:
    variable.assign(NORMAL(*variable.shape))
  return layer

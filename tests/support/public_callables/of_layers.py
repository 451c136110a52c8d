"""Keras layers: constructors and calls, and the functions of networks."""

import keras
import tensorflow as tf

from flowpp_tf import layers
from flowpp_tf.core.context import EvalContext
from support.public_callables.row import Row, look
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
  "NetworkConfig": Row(
    lambda w: layers.NetworkConfig,
    dict(
      filters=count(4, huge=same(2**62)),
      blocks=count(1, low=0, huge=same(2**62)),
      mixer=name("attention"),
      heads=count(2, huge=None),
      layer_norm=flag(True),
      dropout=RATE.also(("1", 1.0)),
      weight_norm=flag(False),
      remat=flag(False),
      padding=name("periodic"),
    ),
  ),
  "NetworkConfig.of": Row(lambda w: layers.NetworkConfig.of, dict(value=instance(NETWORK).named("network"))),
  "ConditionNet": Row(
    lambda w: layers.ConditionNet,
    dict(
      image_shape=shape((4, 4, 2)),
      num_classes=count(3, low=0),
      condition_shape=shape((2, 2, 1)).but("empty"),
      network=optional(instance(NETWORK)),
    ),
  ),
  "Conditioner": Row(
    lambda w: layers.Conditioner,
    dict(
      image_shape=shape((4, 4, 2)),
      outputs=count(3),
      network=instance(NETWORK),
      context_channels=count(2, low=0),
      output_concat_elu=flag(False),
      context_block=shape((1, 1), rank=2),
    ),
  ),
  "ContextNet": Row(
    lambda w: layers.ContextNet,
    dict(image_shape=shape((4, 4, 2)), levels=optional(count(8)), network=instance(NETWORK)),
  ),
  "ConvAttentionBlock": Row(
    lambda w: layers.ConvAttentionBlock,
    dict(network=instance(NETWORK), use_context=flag(False), output_kernel_size=count(1)),
    _of_inputs((4, 4, 4)),
  ),
  "DenseConditioner": Row(
    lambda w: layers.DenseConditioner,
    dict(
      size=count(2),
      outputs=count(3),
      hidden=count(4),
      blocks=count(1, low=0),
      context_size=count(2, low=0),
      output_mean=optional(real(NORMAL(3), event=1, finite=True, cast="all")),
    ),
  ),
  "Dropout": Row(
    lambda w: layers.Dropout,
    dict(rate=RATE),
    lambda layer: look(layer(tf.constant(NORMAL(3, 4)), training=True, seed=[1, 2])),
  ),
  "GatedAttention": Row(
    lambda w: layers.GatedAttention,
    dict(filters=count(4), heads=count(2), dropout=RATE, weight_norm=flag(False)),
    _of_inputs((4, 4, 4)),
  ),
  "GatedConv": Row(
    lambda w: layers.GatedConv,
    dict(
      filters=count(4),
      output_kernel_size=count(3),
      use_context=flag(False),
      dropout=RATE,
      weight_norm=flag(False),
      padding=name("periodic"),
    ),
    _of_inputs((4, 4, 4)),
  ),
  "GatedPointwise": Row(
    lambda w: layers.GatedPointwise,
    dict(filters=count(4), dropout=RATE, weight_norm=flag(False)),
    _of_inputs((4, 4, 4)),
  ),
  "InitNormConv2D": Row(
    lambda w: layers.InitNormConv2D,
    dict(
      filters=count(3),
      kernel_size=count(3),
      init_scale=number(1.0, 0, ends=False),
      weight_norm=flag(False),
      padding=name("periodic"),
    ),
    _of_inputs((4, 4, 2)),
  ),
  "InitNormDense": Row(
    lambda w: layers.InitNormDense,
    dict(units=count(3), init_scale=number(1.0, 0, ends=False), weight_norm=flag(False)),
    _of_inputs((4, 4, 2)),
  ),
  "LabelEmbedding": Row(lambda w: layers.LabelEmbedding, dict(num_classes=count(3), channels=count(4))),
  "Flow": Row(lambda w: layers.Flow, dict(distribution=instance(lambda w: w.flow))),
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
  "ConvAttentionBlock.call/context": Row(
    lambda w: _given_context(layers.ConvAttentionBlock(NETWORK, use_context=True)),
    dict(x=_image(4), context=CONTEXT_OF_IMAGES._replace(optional=False)),
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
  "GatedConv.call/context": Row(
    lambda w: _given_context(layers.GatedConv(4, use_context=True)),
    dict(x=_image(4), context=CONTEXT_OF_IMAGES._replace(optional=False)),
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
    f"{cls}.{row}": value
    for cls in ("Flow", "VectorFlow")
    for row, value in {
      "call": Row(lambda w: w.layer, dict(x=keras_input(POINTS, event=1))),
      "call/context": Row(
        lambda w: w.layer_given,
        dict(
          x=keras_input(POINTS, event=1),
          context=keras_input(CONTEXT, event=1).but("an axis too few").also(("None", None)),
        ),
      ),
      "adapt": Row(
        lambda w: w.layer.adapt,
        dict(x=keras_input(POINTS, event=1, finite=True), overwrite=flag(True)),
        reset=lambda w: w.reset(w.layer),
      ),
      "adapt/context": Row(
        lambda w: lambda x, context: w.layer_given.adapt(x, context, overwrite=True),
        dict(
          x=keras_input(POINTS, event=1, finite=True),
          context=keras_input(CONTEXT, event=1, finite=True).but("an axis too few"),
        ),
        reset=lambda w: w.reset(w.layer_given),
      ),
      "initialize": Row(
        lambda w: w.layer.initialize,
        dict(x=keras_input(POINTS, event=1, finite=True), overwrite=flag(True)),
        reset=lambda w: w.reset(w.layer),
      ),
      "initialize/context": Row(
        lambda w: lambda x, context: w.layer_given.initialize(x, context, True),
        dict(
          x=keras_input(POINTS, event=1, finite=True),
          context=keras_input(CONTEXT, event=1, finite=True).but("an axis too few"),
        ),
        reset=lambda w: w.reset(w.layer_given),
      ),
      "sample": Row(
        lambda w: w.layer.sample,
        dict(n=count(2, low=0).but("list", "array", "vector tensor"), seed=seed((0, 1)).but("huge")),
      ),
      "sample/context": Row(
        lambda w: lambda n, context: w.layer_given.sample(n, context, seed=(0, 1)),
        dict(
          n=count(2, low=0).but("list", "array", "vector tensor"),
          context=keras_input(CONTEXT, event=1).but("an axis too few"),
        ),
      ),
      "set_weights": Row(
        lambda w: w.layer.set_weights,
        dict(weights=mapping(lambda w: w.layer.get_weights()).but("None")),
        reset=lambda w: w.reset(w.layer),
      ),
    }.items()
  },
  # --- Functions
  "concat_elu": Row(lambda w: layers.concat_elu, dict(x=real(NORMAL(3, 4), cast="floats"))),
  "gate": Row(
    lambda w: layers.gate, dict(x=real(NORMAL(3, 4), cast="floats").also(("odd", NORMAL(3, 3)), ("a number", 1.0)))
  ),
  "fold_in": Row(
    lambda w: layers.fold_in, dict(seed=seed([1, 2]).but("huge"), salt=instance("dropout").but("text", "number"))
  ),
}


def _given_context(layer):
  keras.utils.set_random_seed(0)
  layer.build((None, 4, 4, 4), context_shape=(None, 4, 4, 2))
  for variable in layer.weights:
    variable.assign(NORMAL(*variable.shape))
  return layer

"""Keras layers: constructors and calls, and the functions of networks."""

import functools

import keras
import tensorflow as tf

from flowpp_tf import layers
from flowpp_tf.core.context import EvalContext
from support import wrong_values as wrong
from support.public_callables.row import look, row
from support.public_callables.world import CONTEXT, LABELS, NORMAL, POINTS

GENERATED = ("layers",)
NETWORK = layers.NetworkConfig(4, 1, "none")
RATE = wrong.number(0.0, low=0, high=1).named("rate")
# A call of a layer must be told what is of another rank or has other channels; height and width may be any.
H_AND_W = tuple(f"size {size} of axis {axis}" for size in ("0", "1", "+ 1") for axis in (1, 2))


def _set(layer):
  """The layer, with the same weights each time."""
  for variable in layer.weights:
    variable.assign(NORMAL(*variable.shape))
  return layer


def _of_inputs(*shape):
  """Look at a layer: what it makes of inputs."""

  def outputs(layer):
    keras.utils.set_random_seed(0)
    layer.build((None, *shape))
    return look(_set(layer)(tf.constant(NORMAL(3, *shape))))

  return outputs


def _call(make, **arguments):
  """A row of a layer's call; the layer has the same weights in all calls."""

  @functools.cache
  def call(w):
    layer = make()
    if not layer.built:
      layer.build((None, *next(iter(arguments.values())).valid.shape[1:]))
    return _set(layer)

  return row(call, **arguments)


def _image(channels, **kwargs):
  return (
    wrong.keras_input(NORMAL(3, 4, 4, channels), batch=1, **kwargs).but(*H_AND_W).named("context", "position_embedding")
  )


SAMPLES = wrong.count(2, low=0).but("list", "array", "vector tensor")
USUAL = dict(
  image_shape=(4, 4, 2),
  outputs=3,
  filters=4,
  blocks=wrong.count(1, low=0),
  heads=2,
  hidden=4,
  levels=8,
  num_classes=3,
  channels=4,
  units=3,
  rate=RATE,
  dropout=RATE,
  padding=wrong.name("periodic"),
  init_scale=wrong.number(1.0, 0, ends=False),
  network=wrong.instance(NETWORK),
  distribution=lambda w: w.flow,
  ctx=EvalContext(),
)
OF_CLASSES = wrong.labels(LABELS, 3, -1, one=False).but("too large", "negative", "2^40", *wrong.OF_KERAS)
EMBEDDING = wrong.optional(wrong.keras_input(NORMAL(4, 4, 4), event=3)).but("size 1 of axis 0", "size 1 of axis 1")
CONTEXT_OF_IMAGES = wrong.keras_input(NORMAL(3, 4, 4, 2), batch=1).but("size 1 of axis 1", "size 1 of axis 2")


def _of_flows():
  """The rows of the methods of a flow as a layer, without and with a context."""
  points, context = wrong.keras_input(POINTS), wrong.keras_input(CONTEXT).but("an axis too few")
  finite = wrong.keras_input(POINTS, finite=True)
  finite_context = wrong.keras_input(CONTEXT, finite=True).but("an axis too few")
  reset, reset_given = lambda w: w.reset(w.layer), lambda w: w.reset(w.layer_given)
  rows = {
    "call": row(lambda w: w.layer, x=points),
    "call/context": row(lambda w: w.layer_given, x=points, context=context.also(("None", None))),
    "sample": row(lambda w: w.layer.sample, n=SAMPLES, seed=wrong.seed((0, 1)).but("huge")),
    "sample/context": row(
      lambda w: lambda **given: w.layer_given.sample(**given, seed=(0, 1)), n=SAMPLES, context=context
    ),
    "set_weights": row(
      lambda w: w.layer.set_weights, weights=wrong.mapping(lambda w: w.layer.get_weights()).but("None"), reset=reset
    ),
  }
  for method in ("adapt", "initialize"):
    rows[method] = row(lambda w, method=method: getattr(w.layer, method), x=finite, overwrite=True, reset=reset)
    rows[f"{method}/context"] = row(
      lambda w, method=method: lambda **given: getattr(w.layer_given, method)(**given, overwrite=True),
      x=finite,
      context=finite_context,
      reset=reset_given,
    )
  return rows


ROWS = {
  "NetworkConfig": row(
    filters=wrong.count(4, huge=wrong.same(2**62)),
    blocks=wrong.count(1, low=0, huge=wrong.same(2**62)),
    mixer=wrong.name("attention"),
    dropout=RATE.also(("1", 1.0)),
  ),
  "NetworkConfig.from_config": row(config=wrong.instance(NETWORK).named("network")),
  "ConditionNet": row(
    num_classes=wrong.count(3, low=0),
    condition_shape=wrong.shape((2, 2, 1)).but("empty"),
    network=wrong.optional(wrong.instance(NETWORK)),
  ),
  "Conditioner": row(context_channels=wrong.count(2, low=0)),
  "ConvAttentionBlock": row(look=_of_inputs(4, 4, 4)),
  "DenseConditioner": row(
    size=2, context_size=wrong.count(2, low=0), output_mean=wrong.optional(wrong.real(NORMAL(3), event=1, finite=True))
  ),
  "Dropout": row(look=lambda layer: look(layer(tf.constant(NORMAL(3, 4)), training=True, seed=[1, 2]))),
  "GatedAttention": row(look=_of_inputs(4, 4, 4)),
  "GatedConv": row(output_kernel_size=3, look=_of_inputs(4, 4, 4)),
  "GatedPointwise": row(look=_of_inputs(4, 4, 4)),
  "InitNormConv2D": row(filters=3, look=_of_inputs(4, 4, 2)),
  "InitNormDense": row(look=_of_inputs(4, 4, 2)),
  # --- Calls
  "ConditionNet.call": _call(
    lambda: layers.ConditionNet((4, 4, 2), 3, (2, 2, 1), NETWORK),
    labels=OF_CLASSES.named("condition"),
    condition=wrong.keras_input(NORMAL(3, 2, 2, 1), batch=1, cast="all"),
  ),
  "Conditioner.call": _call(
    lambda: layers.Conditioner((4, 4, 2), 3, NETWORK), x=wrong.keras_input(NORMAL(3, 4, 4, 2), batch=1)
  ),
  "ContextNet.call": _call(
    lambda: layers.ContextNet((4, 4, 2), None, NETWORK),
    images=wrong.keras_input(NORMAL(3, 4, 4, 2), batch=1, cast="all"),
  ),
  "ConvAttentionBlock.call": _call(
    lambda: layers.ConvAttentionBlock(layers.NetworkConfig(4, 1, heads=2)), x=_image(4), position_embedding=EMBEDDING
  ),
  "ConvAttentionBlock.call/context": row(
    lambda w: _given_context(layers.ConvAttentionBlock(NETWORK, use_context=True)),
    x=_image(4),
    context=CONTEXT_OF_IMAGES,
  ),
  "DenseConditioner.call": _call(lambda: layers.DenseConditioner(2, 3, 4, 1), x=wrong.keras_input(POINTS)),
  "Dropout.call": _call(
    lambda: layers.Dropout(0.5),
    inputs=wrong.keras_input(NORMAL(3, 4), event=0),
    training=wrong.flag(True).but("None"),
    seed=wrong.seed([1, 2]),
    batch_offset=wrong.count(0, huge=wrong.same(2**62)),
  ),
  "GatedAttention.call": _call(lambda: layers.GatedAttention(4, 2), x=_image(4), position_embedding=EMBEDDING),
  "GatedConv.call": _call(lambda: layers.GatedConv(4), x=_image(4)),
  "GatedConv.call/context": row(
    lambda w: _given_context(layers.GatedConv(4, use_context=True)), x=_image(4), context=CONTEXT_OF_IMAGES
  ),
  "GatedPointwise.call": _call(lambda: layers.GatedPointwise(4), x=_image(4), position_embedding=EMBEDDING),
  "InitNormConv2D.call": _call(lambda: layers.InitNormConv2D(3), x=_image(2).but("an axis too many")),
  "InitNormDense.call": _call(lambda: layers.InitNormDense(3), x=wrong.keras_input(NORMAL(3, 2))),
  "LabelEmbedding.call": _call(
    lambda: layers.LabelEmbedding(3, 4),
    labels=OF_CLASSES.but("one too few", "one too many", "an array of one", "empty"),
  ),
  # --- Flows as layers
  **{f"{cls}.{method}": made for cls in ("Flow", "VectorFlow") for method, made in _of_flows().items()},
  # --- Functions
  "concat_elu": row(x=wrong.real(NORMAL(3, 4), event=0, cast="floats")),
  "gate": row(x=wrong.real(NORMAL(3, 4), event=0, cast="floats").also(("odd", NORMAL(3, 3)), ("a number", 1.0))),
  "fold_in": row(seed=wrong.seed([1, 2]).but("huge"), salt=wrong.instance("dropout").but("text", "number")),
}


def _given_context(layer):
  keras.utils.set_random_seed(0)
  layer.build((None, 4, 4, 4), context_shape=(None, 4, 4, 2))
  return _set(layer)

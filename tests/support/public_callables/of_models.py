"""Models of images, their distributions, vector flows, dequantizations, and files of models."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf import distributions, models
from support.models import MINIMAL
from support.public_callables.row import Row, look, row
from support.public_callables.world import CONTEXT, IMAGES, LABELS, NORMAL, POINTS, VECTORS
from support.wrong_values import (
  OF_KERAS,
  context,
  count,
  flag,
  images,
  instance,
  labels,
  mapping,
  name,
  number,
  optional,
  path,
  real,
  same,
  seed,
  shape,
  some_of,
  text,
)

PICTURES = images(IMAGES, 8)
CLASSES = labels(LABELS, 3, -1).but("float", "floats")
# Conditions are data, as images are: they are cast. One is for all.
CONDITION = real(NORMAL(3, 2, 2, 1), event=3, batch=1, finite=True, cast="all")
OF_A_BATCH = ("an array of one", "a column", "an axis too many", "empty")  # which TFP broadcasts
NOISE = (
  optional(real(np.random.RandomState(3).uniform(0.01, 0.99, [3, 4, 4, 2]), event=4, finite=True))
  .but("size + 1 of axis 0", "size 1 of axis 0")
  .also(("size 1", np.full([1, 4, 4, 2], 0.5)), ("size 4", np.full([4, 4, 4, 2], 0.5)))
)
SEED = optional(seed(0))
SAMPLES = count(2).named("noise")
GUIDANCE = number(0.5)
LATENTS = real(NORMAL(3, 4, 4, 2), event=3, batch=1, finite=True).named("images of the model")


def _bound(method, **more):
  """The rows of a method of images: of a model of images, and what conditional ones add."""
  of_images = lambda **arguments: Row(
    lambda w: getattr(w.model, method),
    arguments,
    reset=(lambda w: w.reset(w.model)) if method == "initialize" else None,
  )
  again = {"overwrite": True} if method == "initialize" else {}
  conditional = Row(
    lambda w: (
      lambda labels, condition: getattr(w.conditional, method)(
        IMAGES, seed=0, labels=labels, condition=condition, **again
      )
    ),
    dict(labels=CLASSES, condition=CONDITION),
    reset=(lambda w: w.reset(w.conditional)) if method == "initialize" else None,
  )
  arguments = dict(images=PICTURES, **more)
  with_noise = {name: argument for name, argument in arguments.items() if name != "num_samples"}
  return {
    method: of_images(**arguments, seed=seed(0)),
    f"{method}/noise": of_images(**with_noise, noise=NOISE),
    f"{method}/conditional": conditional,
  }


TRAINING = dict(training=flag(False), batch_offset=count(0, low=0, huge=same(2**62)))
_METHODS = {
  **_bound("log_prob_bound", num_samples=SAMPLES, **TRAINING),
  **_bound("bound_terms", num_samples=SAMPLES),
  **_bound("bits_per_dim", num_samples=SAMPLES),
  "log_prob": row(
    lambda w: w.real_valued.log_prob, images=real(NORMAL(3, 4, 4, 2), event=3, batch=1, finite=True, cast="all")
  ),
  "log_prob/conditional": row(
    lambda w: lambda labels, condition: w.real_valued_conditional.log_prob(NORMAL(3, 4, 4, 2), labels, condition),
    labels=CLASSES,
    condition=CONDITION,
  ),
  **_bound("initialize", overwrite=flag(True)),
  **_bound("encode"),
  "to_bits_per_dim": row(lambda w: w.model.to_bits_per_dim, log_prob=real(NORMAL(3), cast="all")),
  "sample": row(lambda w: w.model.sample, n=count(2), temperature=number(1.0, low=0), seed=seed(0)),
  "sample/conditional": row(
    lambda w: lambda labels, condition, guidance: w.conditional.sample(3, 1.0, 0, labels, condition, guidance),
    labels=CLASSES,
    condition=CONDITION,
    guidance=GUIDANCE,
  ),
  "sample_latents": row(lambda w: w.model.sample_latents, n=count(2), temperature=number(1.0, low=0), seed=seed(0)),
  "decode": row(lambda w: w.model.decode, z=LATENTS),
  "decode/conditional": row(
    lambda w: lambda labels, condition, guidance: w.conditional.decode(NORMAL(3, 4, 4, 2), labels, condition, guidance),
    labels=CLASSES,
    condition=CONDITION,
    guidance=GUIDANCE,
  ),
  "sample_noise": row(lambda w: w.model.sample_noise, shape=shape((2, 3), rank=None, low=0), seed=seed(0)),
  "given": row(
    lambda w: lambda labels, condition: w.conditional.given(labels, condition).log_prob(IMAGES),
    labels=CLASSES.but(*OF_A_BATCH),
    condition=CONDITION.but(*OF_A_BATCH),
  ),
  "check_conditioning": row(
    lambda w: w.conditional.check_conditioning, count=count(3).named("labels"), labels=CLASSES, condition=CONDITION
  ),
  "check_images": row(lambda w: w.model.check_images, images=PICTURES, look=lambda x: look(tf.cast(x, tf.int32))),
  "from_preset": row(
    preset=path(lambda w: w.preset).but("list"), unchecked=flag(False), precision=optional(name("float32"))
  ),
  "save_to_preset": row(
    lambda w: w.model.save_to_preset,
    folder=path(lambda w: w.new("preset"), there=False),
    description=text("small"),
    weights=name("safetensors"),
    license=text("apache-2.0"),
  ),
  # --- Keras
  "call": row(lambda w: w.model, inputs=PICTURES.named("images").but(*OF_KERAS), training=flag(False).but("None")),
  "cropped": row(
    lambda w: w.model.cropped,
    height=count(2, most=4),
    width=count(4, most=4),
    look=lambda model: look(model.log_prob_bound(IMAGES[:, :2], seed=0)),
  ),
  "adapt": row(
    lambda w: w.model.adapt,
    data=PICTURES.named("adapt", "images", "inputs", "`x`", "x").but("list"),
    batch_size=count(2, huge=same(3)),
    overwrite=flag(True),
    reset=lambda w: w.reset(w.model),
  ),
  "compile": row(
    lambda w: fpp.FlowPlusPlus(MINIMAL).compile,
    optimizer=instance(lambda w: keras.optimizers.SGD(0.0)).but("None"),
    max_skipped=count(2, huge=same(2**62)),
    slow=True,
  ),
  "fit": row(
    lambda w: _compiled(w.model).fit,
    x=PICTURES.named("images", "inputs"),
    look=lambda history: sorted(history.history),
    slow=True,
  ),
  "fit/labels": row(
    lambda w: lambda y: _compiled(w.labelled).fit(IMAGES, y),
    y=labels(LABELS, 3).named("label", "labels"),
    look=lambda history: sorted(history.history),
    slow=True,
  ),
  "evaluate": row(lambda w: _compiled(w.model).evaluate, x=PICTURES.named("images", "inputs"), slow=True),
  "evaluate/labels": row(
    lambda w: lambda y: _compiled(w.labelled).evaluate(IMAGES, y),
    y=labels(LABELS, 3).named("label", "labels"),
    slow=True,
  ),
  "predict": row(lambda w: _compiled(w.model).predict, x=PICTURES.named("images", "inputs"), slow=True),
  "load_weights": Row(
    lambda w: w.model.load_weights, {"filepath": path(lambda w: w.weights_h5).named("filepath", "path")}, slow=True
  ),
  "set_weights": row(
    lambda w: w.model.set_weights,
    weights=mapping(lambda w: w.model.get_weights()).but("None"),
    reset=lambda w: w.reset(w.model),
  ),
}


def _compiled(model):
  if not model.compiled:
    model.compile(keras.optimizers.SGD(0.0))
  return model


FLOW = real(POINTS, event=1).named("x", "y", "value")
GIVEN = real(CONTEXT, event=1, cast="floats").but("an axis too few")  # one is for all
SIZES = dict(
  event_size=count(2, low=2),
  context_size=count(3, low=0),
  couplings=count(1),
  components=count(2),
  hidden=count(4),
  blocks=count(1, low=0),
)
DF = optional(number(5.0, low=0, ends=False))

# Sizes of a context are the matter of the network, and this one has none.
OF_THE_NETWORK = (
  "NaN",
  "a number",
  "an axis too few",
  *(f"size {size} of axis {axis}" for axis in (1, 2, 3) for size in ("0", "1", "+ 1")),
)

OF_VALUES = "NaN", "infinite", "-infinite"  # of which the sizes of a flow do not depend


def _of_vectors(flow):
  return look([tuple(v.shape) for v in flow.variables])


_DISTRIBUTIONS = {
  "FlowDistribution": row(
    distribution=lambda w: tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 2),
    bijector=fb.Sigmoid(),
    look=lambda flow: look(flow.log_prob(tf.constant([[0.25, 0.75]]))),
  ),
  "FlowDistribution.log_prob": row(lambda w: w.flow.log_prob, value=FLOW, ctx=context()),
  "FlowDistribution.prob": row(lambda w: w.flow.prob, value=FLOW),
  "FlowDistribution.sample": row(
    lambda w: w.flow.sample,
    sample_shape=count(2, low=0).but("list", "array", "vector tensor").named("n"),
    seed=seed((0, 1)).but("huge"),
  ),
  "FlowDistribution.experimental_sample_and_log_prob": row(
    lambda w: w.flow.experimental_sample_and_log_prob,
    sample_shape=count(2, low=0).but("list", "array", "vector tensor"),
    seed=seed((0, 1)).but("huge"),
  ),
  "FlowDistribution.given": row(lambda w: lambda context: w.flow_given.given(context).log_prob(POINTS), context=GIVEN),
  "FlowDistribution.given/sample": row(
    lambda w: lambda context: w.flow_given.given(context).sample(2, seed=(0, 1)), context=GIVEN
  ),
  "FlowDistribution.given/unconditional": row(
    lambda w: lambda context: (w.flow if context is None else w.flow.given(context)).log_prob(POINTS),
    context=optional(instance(None)).also(("a context", CONTEXT)),
  ),
  "FlowDistribution.given/log_prob": row(lambda w: w.flow_given.given(CONTEXT).log_prob, value=FLOW),
  "FlowDistribution.initialize": row(
    lambda w: w.flow.initialize, x=real(POINTS, event=1, finite=True), overwrite=True, reset=lambda w: w.reset(w.flow)
  ),
  "FlowDistribution.transform": row(
    lambda w: w.flow.transform, base_sample=real(POINTS, event=1).named("x", "y"), ctx=context()
  ),
  "FlowDistribution.kl_divergence": row(
    lambda w: w.flow.kl_divergence, other=instance(lambda w: w.flow).named("distribution_b")
  ),
  "uniform_dequantization": row(
    batch_shape=shape((3,), rank=None, low=0),
    event_shape=shape((4, 4, 2), rank=None, low=0),
    dtype=name("float32"),
    look=lambda q: look(q.sample(seed=(0, 1))),
  ),
  "VariationalDequantization": row(
    bijector=fb.Sigmoid(),
    context=real(NORMAL(3, 4, 4, 2), event=3, cast="floats").but(*OF_THE_NETWORK),
    event_shape=shape((4, 4, 2), rank=None, low=0),
    context_variables=some_of([]),
    dtype=name("float32"),
    look=lambda q: look(q.event_shape.as_list()),
  ),
  "ImageDistribution": row(model=lambda w: w.model, num_samples=2, look=lambda images: look(images.log_prob(IMAGES))),
  "ImageDistribution/conditional": row(
    lambda w: lambda labels, condition: models.ImageDistribution(w.conditional, labels=labels, condition=condition),
    labels=CLASSES.but(*OF_A_BATCH),
    condition=CONDITION.but(*OF_A_BATCH),
    look=lambda images: look(images.log_prob(IMAGES)),
  ),
  "ImageDistribution.log_prob": row(
    lambda w: w.model.distribution.log_prob, value=PICTURES.but("one image", "an axis too many").named("images")
  ),
  "ImageDistribution.prob": row(
    lambda w: w.model.distribution.prob, value=PICTURES.but("one image", "an axis too many").named("images")
  ),
  "ImageDistribution.sample": row(
    lambda w: w.model.distribution.sample,
    sample_shape=count(2, low=0).but("list", "array", "vector tensor"),
    seed=seed((0, 1)).but("huge"),
  ),
  "vector_flow": Row(lambda w: fpp.vector_flow, dict(SIZES, dtype=name("float32"), df=DF), _of_vectors),
  "vector_flow_for": row(
    data=real(POINTS, event=1, batch=1, cast="all").but(*OF_VALUES, "size + 1 of axis 1").named("event_size"),
    context=optional(real(CONTEXT, event=1, batch=1, cast="all")).but(
      *OF_VALUES, "size 0 of axis 1", "size 1 of axis 1", "size + 1 of axis 1"
    ),
    look=_of_vectors,
  ),
  "image_flow": row(
    shape=(4, 4, 2),
    context_shape=shape((1, 1, 3)).but("empty"),
    structure="channels:1",
    coupling=name("affine"),
    components=2,
    filters=4,
    padding=name("periodic"),
    dtype=name("float32"),
    look=lambda flow: look(flow.event_shape.as_list()),
  ),
  "VectorFlow": Row(lambda w: fpp.VectorFlow, dict(SIZES, df=DF)),
}


def _dequantization(cls, make):
  """The methods of a flow, of a dequantization with a batch of three."""
  noise = real(np.random.RandomState(4).uniform(0.2, 0.8, [3, 4, 4, 2]), event=3).named("x", "y", "value")
  return {
    f"{cls}.log_prob": Row(lambda w: make(w).log_prob, dict(value=noise)),
    f"{cls}.prob": Row(lambda w: make(w).prob, dict(value=noise)),
    f"{cls}.experimental_sample_and_log_prob": Row(
      lambda w: make(w).experimental_sample_and_log_prob,
      dict(sample_shape=count(2, low=0).but("list", "array", "vector tensor"), seed=seed((0, 1)).but("huge")),
    ),
    f"{cls}.transform": Row(lambda w: make(w).transform, dict(base_sample=noise, ctx=context())),
    f"{cls}.initialize": Row(
      lambda w: make(w).initialize,
      dict(x=noise._replace(wrong=real(None, event=3, finite=True).wrong), overwrite=flag(True)),
    ),
    f"{cls}.sample": Row(
      lambda w: make(w).sample,
      dict(sample_shape=count(2, low=0).but("list", "array", "vector tensor"), seed=seed((0, 1)).but("huge")),
    ),
  }


_VARIATIONAL = lambda w: distributions.VariationalDequantization(fb.Sigmoid(), NORMAL(3, 4, 4, 2), (4, 4, 2))

_FILES = {
  "InitialWeights.find": row(source=path(lambda w: str(w.preset)).named("init_from")),
  "InitialWeights.load": row(
    lambda w: models.InitialWeights.find(str(w.preset)).load, model=lambda w: w.model, reset=lambda w: w.reset(w.model)
  ),
  "unpack_batch": row(
    batch=mapping({"image": IMAGES}).but("None", "object", "text", "number", "list", "array"), config=MINIMAL
  ),
  "copy_preset": row(preset=lambda w: w.preset, folder=path(lambda w: w.new("copy"), there=False)),
  "preset_folder": row(preset=lambda w: w.preset),
  "open_preset": row(preset=lambda w: w.preset),
  "save_preset": row(
    model=lambda w: w.model,
    folder=path(lambda w: w.new("preset"), there=False),
    description="small",
    settings={},
    weights=name("safetensors"),
    license="apache-2.0",
    evaluation={},
  ),
  "load_official_weights": row(
    model=lambda w: w.official, path=lambda w: w.weights_file, reset=lambda w: w.reset(w.official)
  ),
  "export_official_weights": row(model=lambda w: w.official, path=path(lambda w: w.new("weights.npz"), there=False)),
}

LOADED_IMAGES = PICTURES
_LOADED = {
  "export_saved_model": row(
    model=lambda w: w.model,
    path=path(lambda w: w.new("1"), there=False),
    metadata={},
    max_batch=4,
    overwrite=True,
    slow=True,
  ),
  **{
    f"export_{name}": Row(
      lambda w, name=name: getattr(fpp, f"export_{name}"),
      dict(
        model=instance(lambda w: w.flow),
        path=path(lambda w: w.new(name), there=False),
        metadata=optional(mapping({})),
        overwrite=flag(True),
        **({} if name == "litert" else {"weight_dtype": text("float32")}),
      ),
      slow=True,
    )
    for name in ("onnx", "litert", "openvino")
  },
  "load_saved_model": row(path=lambda w: w.exported, look=repr, slow=True),
  "LoadedModel": row(path=lambda w: w.exported, look=repr, slow=True),
}


def _loaded(method, **arguments):
  """A method of a SavedModel of a model with labels and a condition."""
  given = dict(labels=LABELS, condition=NORMAL(3, 2, 2, 1))
  return Row(lambda w: lambda **kwargs: getattr(w.loaded, method)(**{**given, **kwargs}), arguments, slow=True)


GIVEN_LOADED = dict(labels=CLASSES.but("fraction", "a boolean", "too large one"), condition=CONDITION)
for method in ("log_prob_bound", "bits_per_dim"):
  _LOADED[f"LoadedModel.{method}"] = _loaded(method, images=PICTURES, num_samples=count(2), seed=SEED, **GIVEN_LOADED)
_LOADED["LoadedModel.encode"] = _loaded("encode", images=PICTURES, seed=SEED, **GIVEN_LOADED)
_LOADED["LoadedModel.decode"] = _loaded("decode", latents=LATENTS, **GIVEN_LOADED)
_LOADED["LoadedModel.sample"] = _loaded(
  "sample", n=count(3).but("tensor"), temperature=number(1.0, low=0), seed=SEED, **GIVEN_LOADED
)

ROWS = {
  "FlowPlusPlus": row(config=instance(MINIMAL).but("dict").also(("unknown field", {"a": 1}), ("another", VECTORS))),
  **{f"FlowPlusPlus.{method}": made for method, made in _METHODS.items()},
  **_DISTRIBUTIONS,
  **_dequantization("VariationalDequantization", _VARIATIONAL),
  **_FILES,
  **_LOADED,
}

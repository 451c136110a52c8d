"""Models of images, their distributions, vector flows, dequantizations, and files of models."""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf import distributions, models
from support import wrong_values as wrong
from support.models import MINIMAL
from support.public_callables.row import look, row
from support.public_callables.world import CONTEXT, IMAGES, LABELS, NORMAL, POINTS, UNIFORM, VECTORS

GENERATED = ("models", "distributions", "pretrained", "exporting", "io")
PICTURES = wrong.images(IMAGES, 8)
CLASSES = wrong.labels(LABELS, 3, -1).but("float", "floats")
CONDITION = wrong.data(NORMAL(3, 2, 2, 1))  # one is for all
OF_A_BATCH = ("an array of one", "a column", "an axis too many", "empty")  # which TFP broadcasts
FOR_A_BATCH = dict(labels=CLASSES.but(*OF_A_BATCH), condition=CONDITION.but(*OF_A_BATCH))
LATENTS = wrong.data(NORMAL(3, 4, 4, 2)).named("images of the model")
NOISE = (
  wrong.optional(wrong.real(UNIFORM(3, 4, 4, 2), event=4, finite=True))
  .but("size + 1 of axis 0", "size 1 of axis 0")
  .also(("size 1", np.full([1, 4, 4, 2], 0.5)), ("size 4", np.full([4, 4, 4, 2], 0.5)))
)
FLOW = wrong.real(POINTS).named("x", "y", "value")
GIVEN = wrong.real(CONTEXT, cast="floats").but("an axis too few")  # one is for all
DEQUANTIZED = wrong.real(UNIFORM(3, 4, 4, 2)).named("x", "y", "value")
COUNTED = wrong.count(2, low=0).but("list", "array", "vector tensor").named("n")  # those are shapes of samples
# Sizes of a context are the matter of the network, and this one has none.
OF_THE_NETWORK = (
  "NaN",
  "a number",
  "an axis too few",
  *(f"size {size} of axis {axis}" for axis in (1, 2, 3) for size in ("0", "1", "+ 1")),
)
OF_VALUES = "NaN", "infinite", "-infinite"  # of which the sizes of a flow do not depend

# What is called, and with which arguments, where a row does not say more.
OBJECTS = {
  "FlowPlusPlus": lambda w: w.conditional,
  "FlowDistribution": lambda w: w.flow,
  "ImageDistribution": lambda w: w.model.distribution,
  "LoadedModel": lambda w: w.loaded,
  "VariationalDequantization": lambda w: distributions.VariationalDequantization(
    fb.Sigmoid(), NORMAL(3, 4, 4, 2), (4, 4, 2)
  ),
}
USUAL = dict(
  images=PICTURES,
  labels=CLASSES,
  condition=CONDITION,
  num_samples=wrong.count(2).named("noise"),
  seed=0,
  batch_offset=wrong.count(0, huge=wrong.same(2**62)),
  overwrite=True,
  n=3,
  temperature=wrong.number(1.0, low=0),
  guidance=0.5,
  height=wrong.count(2, most=4),
  width=wrong.count(4, most=4),
  precision=wrong.optional(wrong.name("float32")),
  dtype=wrong.name("float32"),
  event_shape=wrong.shape((4, 4, 2), rank=None, low=0),
  batch_shape=wrong.shape((3,), rank=None, low=0),
  path=lambda w: w.exported,
  preset=lambda w: w.preset,
  event_size=wrong.count(2),
  context_size=wrong.count(3, low=0),
  df=wrong.optional(wrong.number(5.0, low=0, ends=False)),
  couplings=1,
  components=2,
  hidden=4,
  blocks=wrong.count(1, low=0),
  support=wrong.optional(wrong.instance(fpp.support.box(0.0, 1.0))),
)
_SAMPLED = dict(sample_shape=COUNTED, seed=wrong.seed((0, 1)).but("huge"))
USUAL_OF = {
  "FlowDistribution": dict(value=FLOW, base_sample=FLOW, x=wrong.real(POINTS, finite=True, cast=""), **_SAMPLED),
  "VariationalDequantization": dict(
    value=DEQUANTIZED,
    base_sample=DEQUANTIZED,
    x=wrong.real(UNIFORM(3, 4, 4, 2), finite=True, cast="").named("x", "y", "value"),
    **_SAMPLED,
  ),
  "ImageDistribution": dict(value=PICTURES.but("one image", "an axis too many").named("images"), **_SAMPLED),
}


def _compiled(model):
  if not model.compiled:
    model.compile(keras.optimizers.SGD(0.0))
  return model


def _with_noise(method, **more):
  """The row of the noise of a method of images, which says how many samples there are."""
  return row(
    lambda w: lambda noise: getattr(w.model, method)(IMAGES, noise=noise, **more),
    noise=NOISE,
    reset=lambda w: w.reset(w.model),
  )


def _of_vectors(flow):
  return look([tuple(v.shape) for v in flow.variables])


_OF_KERAS = dict(x=PICTURES.named("images", "inputs"))
_TARGETS = wrong.labels(LABELS, 3).named("label", "labels")
_METHODS = {
  "encode/noise": _with_noise("encode"),
  "initialize/noise": _with_noise("initialize", overwrite=True),
  **{f"{name}/noise": _with_noise(name) for name in ("log_prob_bound", "bound_terms", "bits_per_dim")},
  "initialize": row(reset=lambda w: w.reset(w.conditional)),
  "log_prob": row(lambda w: w.real_valued_conditional.log_prob, images=wrong.data(NORMAL(3, 4, 4, 2))),
  "to_bits_per_dim": row(log_prob=wrong.real(NORMAL(3), cast="all")),
  "sample": row(lambda w: w.model.sample, n=2, temperature=wrong.number(1.0, low=0), seed=0),
  "sample/conditional": row(
    lambda w: lambda **given: w.conditional.sample(3, 1.0, 0, **given),
    labels=CLASSES,
    condition=CONDITION,
    guidance=0.5,
  ),
  "decode": row(z=LATENTS),
  "sample_noise": row(shape=wrong.shape((2, 3), rank=None, low=0)),
  "given": row(lambda w: lambda **given: w.conditional.given(**given).log_prob(IMAGES), **FOR_A_BATCH),
  "check_conditioning": row(count=wrong.count(3).named("labels")),
  "check_images": row(look=lambda x: look(tf.cast(x, tf.int32))),
  "from_preset": row(preset=wrong.path(lambda w: w.preset).but("list")),
  "save_to_preset": row(folder=wrong.path(lambda w: w.new("preset"), there=False)),
  # --- Keras
  "call": row(
    lambda w: w.model, inputs=PICTURES.named("images").but(*wrong.OF_KERAS), training=wrong.flag(False).but("None")
  ),
  "cropped": row(lambda w: w.model.cropped, look=lambda model: look(model.log_prob_bound(IMAGES[:, :2], seed=0))),
  "adapt": row(
    lambda w: w.model.adapt,
    data=PICTURES.named("adapt", "images", "inputs", "`x`", "x").but("list"),
    batch_size=wrong.count(2, huge=wrong.same(3)),
    reset=lambda w: w.reset(w.model),
  ),
  "compile": row(
    lambda w: fpp.FlowPlusPlus(MINIMAL).compile,
    optimizer=wrong.instance(lambda w: keras.optimizers.SGD(0.0)).but("None"),
    max_skipped=wrong.count(2, huge=wrong.same(2**62)),
    slow=True,
  ),
  "fit": row(lambda w: _compiled(w.model).fit, **_OF_KERAS, look=lambda history: sorted(history.history), slow=True),
  "fit/labels": row(
    lambda w: lambda y: _compiled(w.labelled).fit(IMAGES, y),
    y=_TARGETS,
    look=lambda history: sorted(history.history),
    slow=True,
  ),
  "evaluate": row(lambda w: _compiled(w.model).evaluate, **_OF_KERAS, slow=True),
  "evaluate/labels": row(lambda w: lambda y: _compiled(w.labelled).evaluate(IMAGES, y), y=_TARGETS, slow=True),
  "predict": row(lambda w: _compiled(w.model).predict, **_OF_KERAS, slow=True),
  "load_weights": row(
    lambda w: w.model.load_weights, filepath=wrong.path(lambda w: w.weights_h5).named("path"), slow=True
  ),
  "set_weights": row(
    lambda w: w.model.set_weights,
    weights=wrong.mapping(lambda w: w.model.get_weights()).but("None"),
    reset=lambda w: w.reset(w.model),
  ),
}

_DISTRIBUTIONS = {
  "FlowDistribution": row(
    distribution=lambda w: tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 2),
    bijector=fb.Sigmoid(),
    look=lambda flow: look(flow.log_prob(tf.constant([[0.25, 0.75]]))),
  ),
  "FlowDistribution.log_prob": row(value=FLOW, ctx=wrong.context()),
  "FlowDistribution.given": row(lambda w: lambda context: w.flow_given.given(context).log_prob(POINTS), context=GIVEN),
  "FlowDistribution.given/sample": row(
    lambda w: lambda context: w.flow_given.given(context).sample(2, seed=(0, 1)), context=GIVEN
  ),
  "FlowDistribution.given/unconditional": row(
    lambda w: lambda context: (w.flow if context is None else w.flow.given(context)).log_prob(POINTS),
    context=wrong.optional(wrong.instance(None)).also(("a context", CONTEXT)),
  ),
  "FlowDistribution.given/log_prob": row(lambda w: w.flow_given.given(CONTEXT).log_prob, value=FLOW),
  "FlowDistribution.initialize": row(reset=lambda w: w.reset(w.flow)),
  "FlowDistribution.kl_divergence": row(other=wrong.instance(lambda w: w.flow).named("distribution_b")),
  "uniform_dequantization": row(look=lambda q: look(q.sample(seed=(0, 1)))),
  "VariationalDequantization": row(
    bijector=fb.Sigmoid(),
    context=wrong.real(NORMAL(3, 4, 4, 2), cast="floats").but(*OF_THE_NETWORK),
    context_variables=wrong.some_of([]),
    look=lambda q: look(q.event_shape.as_list()),
  ),
  "ImageDistribution": row(
    model=lambda w: w.conditional,
    num_samples=2,
    seed=0,
    **FOR_A_BATCH,
    look=lambda images: look(images.log_prob(IMAGES)),
  ),
  "vector_flow": row(look=_of_vectors),
  "ensemble": row(flows=wrong.some_of([fpp.vector_flow(2, **VECTORS)]), look=_of_vectors),
  "vector_flow_for": row(
    data=wrong.data(POINTS).but(*OF_VALUES, "size + 1 of axis 1").named("event_size"),
    context=wrong.optional(wrong.data(CONTEXT)).but(*OF_VALUES, "size 1 of axis 1", "size + 1 of axis 1"),
    look=_of_vectors,
  ),
  "image_flow": row(
    shape=(4, 4, 2),
    context_shape=wrong.shape((1, 1, 3)).but("empty"),
    structure="channels:1",
    coupling=wrong.name("affine"),
    filters=4,
    padding=wrong.name("periodic"),
    look=lambda flow: look(flow.event_shape.as_list()),
  ),
}

_FILES = {
  "InitialWeights.find": row(source=wrong.path(lambda w: str(w.preset)).named("init_from")),
  "InitialWeights.load": row(
    lambda w: models.InitialWeights.find(str(w.preset)).load, model=lambda w: w.model, reset=lambda w: w.reset(w.model)
  ),
  "unpack_batch": row(
    batch=wrong.mapping({"image": IMAGES}).but("None", "object", "text", "number", "list", "array"), config=MINIMAL
  ),
  "copy_preset": row(folder=wrong.path(lambda w: w.new("copy"), there=False)),
  "save_preset": row(
    model=lambda w: w.model, folder=wrong.path(lambda w: w.new("preset"), there=False), description="small"
  ),
  "load_official_weights": row(
    model=lambda w: w.official, path=lambda w: w.weights_file, reset=lambda w: w.reset(w.official)
  ),
  "export_official_weights": row(
    model=lambda w: w.official, path=wrong.path(lambda w: w.new("weights.npz"), there=False)
  ),
  "export": row(model=lambda w: w.model, path=wrong.path(lambda w: w.new("1"), there=False), max_batch=4, slow=True),
  **{
    f"export/{name}": row(
      lambda w, name=name: functools.partial(fpp.export, format=name),
      model=wrong.instance(lambda w: w.flow),
      path=wrong.path(lambda w, name=name: w.new(name), there=False),
      slow=True,
    )
    for name in ("onnx", "litert", "openvino")
  },
  "save": row(flow=wrong.instance(lambda w: w.flow), path=wrong.path(lambda w: w.new("flow"), there=False)),
  "load_saved_model": row(look=repr, slow=True),
  "LoadedModel": row(look=repr, slow=True),
}


def _loaded(method, **arguments):
  """A method of a SavedModel of a model with labels and a condition."""
  given = dict(labels=LABELS, condition=NORMAL(3, 2, 2, 1))
  of_conditioning = dict(labels=CLASSES.but("fraction", "a boolean", "too large one"), condition=CONDITION)
  return row(
    lambda w: lambda **kwargs: getattr(w.loaded, method)(**{**given, **kwargs}),
    **arguments,
    **of_conditioning,
    slow=True,
  )


_LOADED = {
  **{f"LoadedModel.{name}": _loaded(name, images=PICTURES) for name in ("log_prob_bound", "bits_per_dim", "encode")},
  "LoadedModel.decode": _loaded("decode", latents=LATENTS),
  "LoadedModel.sample": _loaded("sample", n=wrong.count(3).but("tensor")),
}

ROWS = {
  "FlowPlusPlus": row(
    config=wrong.instance(MINIMAL).but("dict").also(("unknown field", {"a": 1}), ("another", VECTORS))
  ),
  **{f"FlowPlusPlus.{method}": made for method, made in _METHODS.items()},
  **_DISTRIBUTIONS,
  **_FILES,
  **_LOADED,
}

"""Evaluation of models, and compression."""

import dataclasses
import io

import numpy as np

from flowpp_tf import compression, evaluation
from support import wrong_values as wrong
from support.models import small_images
from support.public_callables.row import look, row
from support.public_callables.world import IMAGES, LABELS, NORMAL, UNIFORM

GENERATED = ("evaluation", "compression")
PICTURES = wrong.images(IMAGES, 8)
ARRAYS = PICTURES.but("ragged tensor")
CLASSES = wrong.optional(wrong.labels(LABELS, 3))
ANY_SIZE = ("another height", "another width")
WHOLE = PICTURES.but(*ANY_SIZE)
SOUND = np.arange(9.0)
GREY = small_images(3)[..., :1]
MANY = np.tile(IMAGES, [7, 1, 1, 1])
LEVELS = wrong.count(8, low=2, most=1 << 16)
OF_A_BATCH = wrong.count(3, huge=wrong.same(100))  # all images at once
INSIDE = (
  wrong.optional(wrong.instance(np.array([[4, 4], [3, 4], [1, 2]])))
  .but("array", "list")
  .also(("fractions", np.full([3, 2], 2.5)), ("too large", np.full([3, 2], 5)), ("zero", np.zeros([3, 2], int)))
)
SEGMENTS = wrong.optional(wrong.some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)]))
RESULT = evaluation.BitsPerDim(3, (evaluation.Bound(1, 2.0, 0.5),), {"prior": 2.0})

# What is called, and with which arguments, where a row does not say more.
OBJECTS = {
  "BatchedModel": lambda w: w.batched,
  "Scorer": lambda w: w.scorer,
  "PositionScorer": lambda w: w.position_scorer,
  "BitMaps": lambda w: evaluation.BitMaps(w.model, 2),
  "FeatureNetwork": lambda w: w.features,
  "SampleEvaluator": lambda w: evaluation.SampleEvaluator(w.features),
  "Reconstruction": lambda w: evaluation.Reconstruction(IMAGES, 7 - IMAGES),
  "ValidationStatistics": lambda w: evaluation.ValidationStatistics(1, 2.0, None),
  "ArchiveReader": lambda w: w.reader,
  "ArchiveWriter": lambda w: w.writer,
}
USUAL = dict(
  model=lambda w: w.model,
  images=PICTURES,
  pictures=WHOLE,
  labels=CLASSES,
  num_samples=2,
  batch_size=wrong.count(2, huge=wrong.same(100)),
  n=2,
  temperature=wrong.number(1.0, low=0),
  seed=0,
  levels=wrong.optional(LEVELS),
  split=wrong.name("test"),
  dataset=lambda w: w.dataset,
  features=lambda w: w.features,
  batched=lambda w: w.batched,
  calibration=SOUND,
  typical=3.0,
  key={},
  codec=lambda w: w.codec,
  reader=lambda w: w.reader,
  numbers=SEGMENTS,
  max_batch=wrong.optional(OF_A_BATCH),
)

_EVALUATION = {
  "BatchedModel": row(look=lambda batched: look(batched.encode(IMAGES, seed=0))),
  "BatchedModel/labels": row(
    lambda w: lambda **given: evaluation.BatchedModel(w.labelled, **given),
    labels=wrong.count(1, low=0, most=2).named("label"),
    guidance=wrong.number(0.0).but("np.float32", "tensor"),
    look=lambda batched: look(batched.sample(2, seed=0)),
  ),
  "BatchedModel.sample": row(n=wrong.count(2).but("tensor")),
  "BatchedModel.sample/labels": row(
    lambda w: lambda labels: w.batched_labelled.sample(3, seed=0, labels=labels), labels=CLASSES
  ),
  "BatchedModel.encode": row(noise=wrong.optional(wrong.data(UNIFORM(3, 4, 4, 2)))),
  "BatchedModel.encode/labels": row(
    lambda w: lambda labels: w.batched_labelled.encode(IMAGES, seed=0, labels=labels), labels=CLASSES
  ),
  "BatchedModel.decode": row(z=NORMAL(3, 4, 4, 2)),
  "BatchedModel.decode/labels": row(
    lambda w: lambda labels: w.batched_labelled.decode(NORMAL(3, 4, 4, 2), labels), labels=CLASSES
  ),
  "Reconstruction.visible_differences": row(levels=LEVELS),
  "Scorer": row(look=lambda scorer: look(scorer(IMAGES))),
  "Scorer.class_log_likelihoods": row(lambda w: w.class_scorer.class_log_likelihoods),
  "Scorer.first_draws": row(num_samples=wrong.count(2, most=2), look=lambda scorer: look(scorer(IMAGES))),
  "PositionScorer": row(look=lambda scorer: look(scorer(IMAGES).total)),
  "PositionScorer.__call__": row(look=lambda bits: look(bits.total)),
  "PositionScorer.__call__/condition": row(
    lambda w: lambda condition: evaluation.PositionScorer(w.tile_model, 2)(IMAGES, condition=condition),
    condition=wrong.optional(wrong.data(NORMAL(3, 4, 4, 10))).but("None"),
    look=lambda bits: look(bits.total),
  ),
  "PositionScorer.cropped": row(
    height=wrong.count(2, most=4),
    width=wrong.count(4, most=4),
    look=lambda scorer: look(scorer(IMAGES[:, :2], labels=LABELS).total),
  ),
  "sample_pictures": row(
    model=lambda w: w.tile_model,
    n=wrong.count(1).but("tensor"),
    height=wrong.count(5, huge=None),
    width=wrong.count(7, huge=None),
  ),
  "BitMaps": row(look=lambda maps: look(list(maps(IMAGES)))),
  "BitMaps.__call__": row(look=lambda maps: look(list(maps))),
  "heat_map": row(
    values=wrong.real(np.arange(6.0).reshape(2, 3), event=0, batch=2, finite=True),
    low=0.0,
    high=wrong.optional(wrong.number(5.0, low=1.0)),
  ),
  "classify": row(model=lambda w: w.labelled, labels=wrong.labels(LABELS, 3, one=False)),
  "evaluate_bits_per_dim": row(
    num_samples=wrong.count(2).but("list", "array"),
    batch_size=OF_A_BATCH,
    partial=wrong.optional(wrong.path(lambda w: w.new("file").parent, there=False)),
    verbose=wrong.count(0, huge=wrong.same(0)).but("boolean"),
  ),
  "evaluate_bits_per_dim/conditioning": row(
    lambda w: lambda conditioning: evaluation.evaluate_bits_per_dim(w.labelled, IMAGES, conditioning=conditioning),
    conditioning=wrong.mapping({"labels": LABELS})
    .also(("labels of others", {"labels": LABELS[:2]}), ("key", {"label": LABELS}))
    .named("labels"),
  ),
  "evaluate_bits_per_dim/inside": row(
    lambda w: lambda inside: evaluation.evaluate_bits_per_dim(w.model, IMAGES, inside=inside), inside=INSIDE
  ),
  "FeatureNetwork.train": row(steps=1, look=lambda features: look(features.network), slow=True),
  "FeatureNetwork.__call__": row(batch_size=OF_A_BATCH),
  "SampleEvaluator": row(look=lambda evaluator: look(evaluator(MANY))),
  "SampleEvaluator.__call__": row(images=wrong.images(MANY, 8)),
  "SampleEvaluator.real": row(
    lambda w: evaluation.SampleEvaluator(dataclasses.replace(w.features, dataset=w.twenty)).real,
    n=wrong.count(20, low=20, huge=wrong.same(20)),
  ),
  "image_grid": row(
    images=wrong.images(GREY, 8).but(*ANY_SIZE, "another number of channels").also(("two channels", IMAGES)),
    columns=wrong.optional(wrong.count(2, huge=None)),
    wide_columns=wrong.some_of([1]).but("list with a wrong number"),
    title="title",
    row_labels=wrong.some_of(["a", "b"]).but("list with a wrong text"),
  ),
  "interpolate": row(
    first=wrong.images(IMAGES[0], 8).but("one image"),
    last=wrong.images(IMAGES[1], 8).but("one image"),
    frames=wrong.count(3, low=2),
    seed=wrong.seed(0),
  ),
  "load_typical": row(path=wrong.path("nothing").but("missing", "in no folder")),
  "ValidationStatistics.save": row(path=wrong.path(lambda w: w.new("typical.json"), there=False)),
  "codec_bytes": row(
    image=wrong.images(GREY[0], 256, exact=False).but("one image").named("images"),
    look=lambda sizes: look(np.array([*sizes.values()])),
    slow=True,
  ),
  "measure_codecs": row(images=wrong.images(GREY, 256, exact=False), slow=True),
  "measure_codecs/inside": row(lambda w: lambda inside: evaluation.measure_codecs(GREY, inside), inside=INSIDE),
  "measure_typical": row(scorer=lambda w: w.scorer, most_images=wrong.count(2, huge=wrong.same(3))),
  "nearest_neighbours": row(
    images=wrong.images(IMAGES[:2], 8).but("too large", "too large uint8"),
    training_images=wrong.images(IMAGES, 8).but("too large", "too large uint8").named("images"),
    neighbours=wrong.count(2, most=3),
  ),
  "plot_curves": row(
    rows=wrong.some_of([{"step": 1, "bits_per_dim": 3.0, "val_bits_per_dim": 3.5}]),
    path=wrong.path(lambda w: w.new("curves.png"), there=False),
    slow=True,
  ),
  "png_bytes": row(image=wrong.images(IMAGES[0], 256, exact=False).but("one image").named("images")),
  "read_record": row(path=wrong.path(lambda w: w.new("a.json")).but("missing")),
  "write_record": row(
    path=wrong.path(lambda w: w.new("a.json"), there=False),
    split="test",
    result=RESULT,
    fingerprint={"sha256": "a"},
    checkpoint={"sha256": "b"},
    seed=wrong.count(0, low=-(2**63), huge=wrong.same(2**62)).but("negative"),  # which programs take
    codecs=wrong.some_of([]),
  ),
  "reconstruct": row(seed=wrong.seed(0)),
  "conformal_p_value": row(scores=np.arange(3.0)),
  "conformal_threshold": row(false_alarms=wrong.number(0.25, low=0.1, high=0.9)),
  "scores_of": row(
    images=WHOLE.but("too large", "too large uint8", "another number of channels", "transposed"),
    log_likelihood=wrong.real(-np.arange(3.0) - 1, event=1, cast="all"),
    names=wrong.some_of(["bits_per_dim", "png_bytes"]),
  ),
  "to_shades": row(images=PICTURES.but(*wrong.OTHER_SHAPES, "an axis too many", "a number")),
  "write_animation": row(
    images=wrong.images(GREY, 8).but(*ANY_SIZE, "another number of channels"),
    path=wrong.path(lambda w: w.new("a.gif"), there=False).also(("ending", "a.txt")),
  ),
}


_COMPRESSION = {
  "compress": row(model=lambda w: w.codec, images=ARRAYS),
  "decompress": row(
    model=lambda w: w.codec,
    data=wrong.binary(lambda w: w.archive).named("archive"),
    start=wrong.count(1, low=0, huge=wrong.same(2**40)).but("too small", "negative"),
    stop=wrong.optional(wrong.count(2, low=0, huge=wrong.same(3))).but("too small", "negative"),
  ),
  "compress_to": row(
    lambda w: lambda **kwargs: _written(compression.compress_to, **kwargs),
    file=lambda w: io.BytesIO(),
    images=ARRAYS,
    segment_images=wrong.count(2, huge=wrong.same(4096)),
  ),
  "codec_for": row(model=lambda w: w.codec, look=repr),
  "Codec": row(model=lambda w: w.codec.model, look=lambda codec: codec.model_hash),
  "ArchiveReader": row(file=lambda w: io.BytesIO(w.archive), look=lambda reader: look(reader.header)),
  "ArchiveReader.segments": row(lambda w: lambda **kwargs: [*w.reader.segments(**kwargs)]),
  "ArchiveReader.decoded": row(lambda w: lambda **kwargs: [result.images for result in w.reader.decoded(**kwargs)]),
  "ArchiveWriter": row(file=lambda w: io.BytesIO(), kind=wrong.name("images"), look=lambda writer: None),
  "CodecModel": row(
    description=lambda w: w.codec.model.description,
    weights=lambda w: w.codec.model.weights,
    embedded=wrong.optional(wrong.count(1)),
    look=lambda model: model.sha256(),
  ),
  "CodecModel.from_bytes": row(
    data=wrong.binary(lambda w: w.codec.model.to_bytes()).named("codec model"),
    name="codec model",
    look=lambda model: model.sha256(),
  ),
  "CodecModel.load": row(path=lambda w: _file(w), look=lambda model: model.sha256()),
  "CodecModel.from_model": row(look=lambda model: model.sha256()),
}


def _written(function, file, **kwargs):
  function(file, **kwargs)
  return file.getvalue() if hasattr(file, "getvalue") else file


def _file(w):
  path = w.folder / "codec_model.npz"
  if not path.exists():
    path.write_bytes(w.codec.model.to_bytes())
  return path


ROWS = {**_EVALUATION, **_COMPRESSION}

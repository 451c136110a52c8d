"""Evaluation of models, and compression."""

import io

import numpy as np

import flowpp_tf as fpp
from flowpp_tf import compression, evaluation
from support.models import small_images
from support.public_callables.row import Row, look, row
from support.public_callables.world import IMAGES, LABELS, NORMAL
from support.wrong_values import (
  OTHER_SHAPES,
  binary,
  count,
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
  some_of,
)

PICTURES = images(IMAGES, 8)
ARRAYS = PICTURES.but("ragged tensor")
BATCH = count(2, huge=same(100))
SAMPLES = count(2)
CLASSES = labels(LABELS, 3)
LATENTS = real(NORMAL(3, 4, 4, 2), event=3, batch=1, finite=True)
WHOLE = PICTURES.but("another height", "another width")  # of any size
SOUND = real(np.arange(9.0), batch=1, dtype="float64", finite=True, cast="all")
GREY = small_images(3)[..., :1]
INSIDE = (
  optional(instance(np.array([[4, 4], [3, 4], [1, 2]])))
  .but("array", "list")
  .also(("fractions", np.full([3, 2], 2.5)), ("too large", np.full([3, 2], 5)), ("zero", np.zeros([3, 2], int)))
)
ROWS_OF_METRICS = [{"step": 1, "bits_per_dim": 3.0, "val_bits_per_dim": 3.5}]
RESULT = evaluation.BitsPerDim(3, (evaluation.Bound(1, 2.0, 0.5),), {"prior": 2.0})

_EVALUATION = {
  "BatchedModel": row(
    model=lambda w: w.model, batch_size=BATCH, look=lambda batched: look(batched.encode(IMAGES, seed=0))
  ),
  "BatchedModel/labels": row(
    lambda w: lambda labels, guidance: evaluation.BatchedModel(w.labelled, labels=labels, guidance=guidance),
    labels=count(1, low=0, most=2).named("label"),
    guidance=number(0.0).but("np.float32", "tensor"),
    look=lambda batched: look(batched.sample(2, seed=0)),
  ),
  "BatchedModel.sample": row(
    lambda w: w.batched.sample, n=count(2).but("tensor"), temperature=number(1.0, low=0), seed=0
  ),
  "BatchedModel.sample/labels": row(
    lambda w: lambda labels: w.batched_labelled.sample(3, seed=0, labels=labels), labels=optional(CLASSES)
  ),
  "BatchedModel.encode": row(
    lambda w: w.batched.encode,
    images=PICTURES,
    noise=optional(real(np.full([3, 4, 4, 2], 0.5), event=3, batch=1, finite=True)),
    seed=0,
  ),
  "BatchedModel.encode/labels": row(
    lambda w: lambda labels: w.batched_labelled.encode(IMAGES, seed=0, labels=labels), labels=optional(CLASSES)
  ),
  "BatchedModel.decode": row(lambda w: w.batched.decode, z=LATENTS),
  "BatchedModel.decode/labels": row(
    lambda w: lambda labels: w.batched_labelled.decode(NORMAL(3, 4, 4, 2), labels), labels=optional(CLASSES)
  ),
  "Reconstruction.visible_differences": row(
    lambda w: evaluation.Reconstruction(IMAGES, 7 - IMAGES).visible_differences, levels=count(8, low=2, most=1 << 16)
  ),
  "Scorer": row(model=lambda w: w.model, num_samples=SAMPLES, typical=3.0, look=lambda scorer: look(scorer(IMAGES))),
  **{
    f"Scorer.{method}": Row(lambda w, method=method: getattr(w.scorer, method), dict(images=PICTURES, batch_size=BATCH))
    for method in ("__call__", "bits_per_dim", "log_likelihood")
  },
  "Scorer.class_log_likelihoods": row(
    lambda w: w.class_scorer.class_log_likelihoods, images=PICTURES, batch_size=BATCH
  ),
  "Scorer.first_draws": row(
    lambda w: w.scorer.first_draws, num_samples=count(2, most=2), look=lambda scorer: look(scorer(IMAGES))
  ),
  "PositionScorer": row(model=lambda w: w.model, num_samples=SAMPLES, look=lambda scorer: look(scorer(IMAGES).total)),
  "PositionScorer.__call__": row(
    lambda w: w.position_scorer.__call__,
    images=PICTURES,
    labels=optional(CLASSES),
    batch_size=BATCH,
    look=lambda bits: look(bits.total),
  ),
  "PositionScorer.__call__/condition": row(
    lambda w: lambda condition: evaluation.PositionScorer(w.tile_model, 2)(IMAGES, condition=condition),
    condition=optional(real(NORMAL(3, 4, 4, 10), event=3, batch=1, finite=True, cast="all")).but("None"),
    look=lambda bits: look(bits.total),
  ),
  "PositionScorer.cropped": row(
    lambda w: w.position_scorer.cropped,
    height=count(2, most=4),
    width=count(4, most=4),
    look=lambda scorer: look(scorer(IMAGES[:, :2], labels=LABELS).total),
  ),
  "sample_pictures": row(
    model=lambda w: w.tile_model,
    n=count(1).but("tensor"),
    height=count(5, huge=None),
    width=count(7, huge=None),
    temperature=number(1.0, low=0),
    seed=0,
    batch_size=BATCH,
  ),
  "bit_maps": row(model=lambda w: w.model, pictures=WHOLE, num_samples=SAMPLES, batch_size=BATCH),
  "BitMaps": row(model=lambda w: w.model, num_samples=SAMPLES, look=lambda maps: look(list(maps(IMAGES)))),
  "BitMaps.__call__": row(
    lambda w: evaluation.BitMaps(w.model, 2).__call__,
    pictures=WHOLE,
    batch_size=BATCH,
    look=lambda maps: look(list(maps)),
  ),
  "heat_map": row(
    values=real(np.arange(6.0).reshape(2, 3), batch=2, dtype="float64", finite=True, cast="all"),
    low=0.0,
    high=optional(number(5.0, low=1.0)),
  ),
  "classify": row(
    model=lambda w: w.labelled,
    images=PICTURES,
    labels=labels(LABELS, 3, one=False),
    num_samples=SAMPLES,
    batch_size=BATCH,
  ),
  "evaluate_bits_per_dim": row(
    model=lambda w: w.model,
    images=PICTURES,
    num_samples=SAMPLES.but("list", "array"),
    batch_size=count(3, huge=same(100)),
    partial=optional(path(lambda w: w.new("partial.npy"), there=False)),
    verbose=count(0, low=0, huge=same(0)).but("boolean"),
  ),
  "evaluate_bits_per_dim/conditioning": row(
    lambda w: lambda conditioning: evaluation.evaluate_bits_per_dim(w.labelled, IMAGES, conditioning=conditioning),
    conditioning=mapping({"labels": LABELS})
    .also(("labels of others", {"labels": LABELS[:2]}), ("key", {"label": LABELS}))
    .named("labels"),
  ),
  "evaluate_bits_per_dim/inside": row(
    lambda w: lambda inside: evaluation.evaluate_bits_per_dim(w.model, IMAGES, inside=inside), inside=INSIDE
  ),
  "FeatureNetwork.train": row(
    dataset=lambda w: w.dataset, steps=1, look=lambda features: look(features.network), slow=True
  ),
  "FeatureNetwork.cached": row(
    dataset=lambda w: w.dataset,
    cache_dir=optional(path(lambda w: w.new("cache"), there=False)),
    look=lambda features: look(features.network),
    slow=True,
  ),
  "FeatureNetwork.__call__": row(lambda w: w.features.__call__, images=PICTURES, batch_size=count(3, huge=same(100))),
  "FeatureNetwork.accuracy": row(lambda w: w.features.accuracy, dataset=lambda w: w.dataset, split=name("test")),
  "SampleEvaluator": row(
    dataset=lambda w: w.dataset,
    features=lambda w: w.features,
    split=name("test"),
    look=lambda evaluator: look(evaluator(np.tile(IMAGES, [7, 1, 1, 1]))),
  ),
  "SampleEvaluator.__call__": row(
    lambda w: evaluation.SampleEvaluator(w.dataset, w.features).__call__,
    images=images(np.tile(IMAGES, [7, 1, 1, 1]), 8),
  ),
  "SampleEvaluator.real": row(
    lambda w: evaluation.SampleEvaluator(w.twenty, w.features).real, n=count(20, low=20, huge=same(20))
  ),
  "frechet_distance": row(
    features=real(NORMAL(5, 3), event=2, dtype="float64", finite=True, cast="all").named("other"),
    other=real(NORMAL(6, 3) + 1, event=2, dtype="float64", finite=True, cast="all"),
  ),
  "image_grid": row(
    images=images(GREY, 8)
    .but("another height", "another width", "another number of channels")
    .also(("two channels", IMAGES)),
    levels=optional(count(8, low=2, most=1 << 16)),
    columns=optional(count(2, huge=None)),
    wide_rows=some_of([1]).but("list with a wrong number"),
    wide_columns=some_of([1]).but("list with a wrong number"),
    title="title",
    row_labels=some_of(["a", "b"]).but("list with a wrong text"),
  ),
  "interpolate": row(
    batched=lambda w: w.batched,
    first=images(IMAGES[0], 8).but("one image"),
    last=images(IMAGES[1], 8).but("one image"),
    frames=count(3, low=2),
    seed=seed(0),
  ),
  "slerp": row(
    z0=real(NORMAL(2, 3), event=2, finite=True, cast="all").named("z1"),
    z1=real(NORMAL(2, 3) + 1, event=2, finite=True, cast="all"),
    t=real(np.array([0.0, 0.5, 1.0]), finite=True, cast="all"),
  ),
  "load_typical": row(path=path("nothing").but("missing", "in no folder"), key={}),
  "ValidationStatistics.save": row(
    lambda w: evaluation.ValidationStatistics(1, 2.0, None).save,
    path=path(lambda w: w.new("typical.json"), there=False),
    key={},
  ),
  "codec_bytes": row(
    image=images(GREY[0], 256, exact=False).but("one image").named("images"),
    look=lambda sizes: look(np.array([*sizes.values()])),
    slow=True,
  ),
  "measure_codecs": row(images=images(GREY, 256, exact=False), slow=True),
  "measure_codecs/inside": row(lambda w: lambda inside: evaluation.measure_codecs(GREY, inside), inside=INSIDE),
  "measure_typical": row(
    scorer=lambda w: w.scorer,
    images=PICTURES,
    most_images=count(2, huge=same(3)),
    batch_size=BATCH,
    progress=lambda done: None,
  ),
  "nearest_neighbours": row(
    images=images(IMAGES[:2], 8).but("too large", "too large uint8"),
    training_images=images(IMAGES, 8).but("too large", "too large uint8").named("images"),
    neighbours=count(2, most=3),
  ),
  "plot_curves": row(rows=some_of(ROWS_OF_METRICS), path=path(lambda w: w.new("curves.png"), there=False), slow=True),
  "png_bytes": row(image=images(IMAGES[0], 256, exact=False).but("one image").named("images")),
  "read_record": row(path=path(lambda w: w.new("a.json")).but("missing")),
  "write_record": row(
    path=path(lambda w: w.new("a.json"), there=False),
    split="test",
    result=RESULT,
    fingerprint={"sha256": "a"},
    checkpoint={"sha256": "b"},
    seed=count(0, low=-(2**63), huge=same(2**62)),
    codecs=some_of([]),
  ),
  "reconstruct": row(batched=lambda w: w.batched, images=PICTURES, seed=seed(0)),
  "conformal_p_value": row(
    calibration=SOUND, scores=real(np.arange(3.0), batch=1, dtype="float64", finite=True, cast="all")
  ),
  "conformal_threshold": row(calibration=SOUND, false_alarms=number(0.25, low=0.1, high=0.9)),
  "scores_of": row(
    images=PICTURES.but(
      "too large", "too large uint8", "another height", "another width", "another number of channels", "transposed"
    ),
    log_likelihood=real(-np.arange(3.0) - 1, event=1, dtype="float64", cast="all"),
    typical=3.0,
    names=some_of(["bits_per_dim", "png_bytes"]),
  ),
  "to_shades": row(
    images=PICTURES.but(*OTHER_SHAPES, "an axis too many", "a number"), levels=optional(count(8, low=2, most=1 << 16))
  ),
  "write_animation": row(
    images=images(GREY, 8).but("another height", "another width", "another number of channels"),
    levels=optional(count(8, low=2, most=1 << 16)),
    path=path(lambda w: w.new("a.gif"), there=False).also(("ending", "a.txt")),
    seconds=number(0.1, 0, ends=False),
  ),
}


_COMPRESSION = {
  "compress": row(model=lambda w: w.codec, images=ARRAYS),
  "compress/tier": row(
    lambda w: lambda tier: fpp.compress(w.model, IMAGES, tier=tier), tier=name("portable"), slow=True
  ),
  "decompress": row(
    model=lambda w: w.codec,
    data=binary(lambda w: w.archive).named("archive"),
    start=count(1, low=0, huge=same(2**40)).but("too small", "negative"),
    stop=optional(count(2, low=0, huge=same(3))).but("too small", "negative"),
  ),
  "compress_to": row(
    lambda w: lambda **kwargs: _written(compression.compress_to, **kwargs),
    file=lambda w: io.BytesIO(),
    coder=lambda w: w.codec,
    images=ARRAYS,
    segment_images=count(2, huge=same(4096)),
    max_batch=optional(count(2, huge=same(100))),
    progress=lambda count: None,
  ),
  "read_images": row(
    lambda w: lambda **kwargs: [*compression.read_images(**kwargs)],
    reader=lambda w: w.reader,
    coder=lambda w: w.codec,
    numbers=optional(some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)])),
  ),
  "coder_for": row(reader=lambda w: w.reader, model=lambda w: w.codec, look=repr),
  "TieredCodec": row(
    model=lambda w: w.codec.model, tier=name("portable"), from_bytes=1 << 20, look=lambda codec: codec.probe
  ),
  "ArchiveReader": row(file=lambda w: io.BytesIO(w.archive), look=lambda reader: look(reader.header)),
  "ArchiveReader.check": row(lambda w: w.reader.check, coder=lambda w: w.codec),
  "ArchiveReader.segments": row(
    lambda w: lambda **kwargs: [*w.reader.segments(**kwargs)],
    numbers=optional(some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)])),
    start=count(0, low=0, huge=same(2**40)),
  ),
  "ArchiveReader.decode": row(
    lambda w: w.reader.decode, segment=lambda w: next(w.reader.segments()), coder=lambda w: w.codec
  ),
  "ArchiveReader.decoded": row(
    lambda w: lambda **kwargs: [result[0] for _, result in w.reader.decoded(**kwargs)],
    coder=lambda w: w.codec,
    numbers=optional(some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)])),
    start=count(0, low=0, huge=same(2**40)),
  ),
  "ArchiveWriter": row(
    file=lambda w: io.BytesIO(),
    coder=lambda w: w.codec,
    kind=name("images"),
    max_batch=optional(count(2, huge=same(2**62))),
    progress=lambda count: None,
    version=count(2, low=2, most=3),
    look=lambda writer: None,
  ),
  "ArchiveWriter.write_segment": row(
    lambda w: w.writer.write_segment,
    images=ARRAYS.but("too large uint8", "no images"),
    extra=binary(b"extra").but("empty", "others", "half"),
    instead=some_of([b"instead"], [("number", 1), ("numbers", [1])]),
    behind=some_of([b"behind"], [("number", 1), ("numbers", [1])]),
  ),
  "ArchiveWriter.write_segments": row(
    lambda w: lambda **kwargs: [*w.writer.write_segments(**kwargs)],
    contents=some_of(
      [(IMAGES, b"extra")],
      [("empty tuple", ()), ("one array", IMAGES), ("no bytes", (IMAGES, 5)), ("six", (IMAGES, b"", (), None, (), 1))],
    ),
  ),
  "ArchiveWriter.write_segment/runs": row(
    lambda w: (
      lambda runs: compression.ArchiveWriter(io.BytesIO(), compression.TieredCodec(w.tile_model)).write_segment(
        IMAGES, runs=runs
      )
    ),
    runs=optional(
      some_of([(8, 5, 0, 3)], [("too many", (8, 5, 0, 4)), ("too few", (4, 4, 0, 1)), ("fraction", (8, 5, 0, 2.5))])
    ),
    slow=True,
  ),
  "CodecModel": row(
    description=lambda w: w.codec.model.description,
    weights=lambda w: w.codec.model.weights,
    look=lambda model: model.sha256(),
  ),
  "CodecModel.from_bytes": row(
    data=binary(lambda w: w.codec.model.to_bytes()).named("codec model"),
    name="codec model",
    look=lambda model: model.sha256(),
  ),
  "CodecModel.load": row(path=lambda w: _file(w), look=lambda m: m.sha256()),
  "CodecModel.from_model": row(model=lambda w: w.model, look=lambda m: m.sha256()),
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

"""Evaluation of models, and compression."""

import io

import numpy as np

import flowpp_tf as fpp
from flowpp_tf import compression, evaluation
from support.models import small_images
from support.public_callables.row import Row, look
from support.public_callables.world import IMAGES, LABELS, NORMAL
from support.wrong_values import (
  binary,
  count,
  flag,
  function,
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
  text,
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
  "BatchedModel": Row(
    lambda w: evaluation.BatchedModel,
    dict(model=instance(lambda w: w.model), batch_size=BATCH),
    lambda batched: look(batched.encode(IMAGES, seed=0)),
  ),
  "BatchedModel/labels": Row(
    lambda w: lambda labels, guidance: evaluation.BatchedModel(w.labelled, labels=labels, guidance=guidance),
    dict(labels=count(1, low=0, most=2).named("label"), guidance=number(0.0).but("np.float32", "tensor")),
    lambda batched: look(batched.sample(2, seed=0)),
  ),
  "BatchedModel.sample": Row(
    lambda w: w.batched.sample, dict(n=count(2).but("tensor"), temperature=number(1.0, low=0), seed=seed(0))
  ),
  "BatchedModel.sample/labels": Row(
    lambda w: lambda labels: w.batched_labelled.sample(3, seed=0, labels=labels), dict(labels=optional(CLASSES))
  ),
  "BatchedModel.encode": Row(
    lambda w: w.batched.encode,
    dict(
      images=PICTURES, noise=optional(real(np.full([3, 4, 4, 2], 0.5), event=3, batch=1, finite=True)), seed=seed(0)
    ),
  ),
  "BatchedModel.encode/labels": Row(
    lambda w: lambda labels: w.batched_labelled.encode(IMAGES, seed=0, labels=labels), dict(labels=optional(CLASSES))
  ),
  "BatchedModel.decode": Row(lambda w: w.batched.decode, dict(z=LATENTS)),
  "BatchedModel.decode/labels": Row(
    lambda w: lambda labels: w.batched_labelled.decode(NORMAL(3, 4, 4, 2), labels), dict(labels=optional(CLASSES))
  ),
  "Reconstruction.visible_differences": Row(
    lambda w: evaluation.Reconstruction(IMAGES, 7 - IMAGES).visible_differences,
    dict(levels=count(8, low=2, most=1 << 16)),
  ),
  "Scorer": Row(
    lambda w: evaluation.Scorer,
    dict(model=instance(lambda w: w.model), num_samples=SAMPLES, seed=seed(0), typical=optional(number(3.0))),
    lambda scorer: look(scorer(IMAGES)),
  ),
  **{
    f"Scorer.{method}": Row(lambda w, method=method: getattr(w.scorer, method), dict(images=PICTURES, batch_size=BATCH))
    for method in ("__call__", "bits_per_dim", "log_likelihood")
  },
  "Scorer.class_log_likelihoods": Row(
    lambda w: w.class_scorer.class_log_likelihoods, dict(images=PICTURES, batch_size=BATCH)
  ),
  "Scorer.first_draws": Row(
    lambda w: w.scorer.first_draws, dict(num_samples=count(2, most=2)), lambda scorer: look(scorer(IMAGES))
  ),
  "PositionScorer": Row(
    lambda w: evaluation.PositionScorer,
    dict(model=instance(lambda w: w.model), num_samples=SAMPLES, seed=seed(0)),
    lambda scorer: look(scorer(IMAGES).total),
  ),
  "PositionScorer.__call__": Row(
    lambda w: w.position_scorer.__call__,
    dict(images=PICTURES, labels=optional(CLASSES), batch_size=BATCH),
    lambda bits: look(bits.total),
  ),
  "PositionScorer.__call__/condition": Row(
    lambda w: lambda condition: evaluation.PositionScorer(w.tile_model, 2)(IMAGES, condition=condition),
    dict(condition=optional(real(NORMAL(3, 4, 4, 10), event=3, batch=1, finite=True, cast="all")).but("None")),
    lambda bits: look(bits.total),
  ),
  "PositionScorer.cropped": Row(
    lambda w: w.position_scorer.cropped,
    dict(height=count(2, most=4), width=count(4, most=4)),
    lambda scorer: look(scorer(IMAGES[:, :2], labels=LABELS).total),
  ),
  "sample_pictures": Row(
    lambda w: evaluation.sample_pictures,
    dict(
      model=instance(lambda w: w.tile_model),
      n=count(1).but("tensor"),
      height=count(5, huge=None),
      width=count(7, huge=None),
      temperature=number(1.0, low=0),
      seed=seed(0),
      batch_size=BATCH,
    ),
  ),
  "bit_maps": Row(
    lambda w: evaluation.bit_maps,
    dict(model=instance(lambda w: w.model), pictures=WHOLE, num_samples=SAMPLES, seed=seed(0), batch_size=BATCH),
  ),
  "BitMaps": Row(
    lambda w: evaluation.BitMaps,
    dict(model=instance(lambda w: w.model), num_samples=SAMPLES, seed=seed(0)),
    lambda maps: look(list(maps(IMAGES))),
  ),
  "BitMaps.__call__": Row(
    lambda w: evaluation.BitMaps(w.model, 2).__call__,
    dict(pictures=WHOLE, batch_size=BATCH),
    lambda maps: look(list(maps)),
  ),
  "heat_map": Row(
    lambda w: evaluation.heat_map,
    dict(
      values=real(np.arange(6.0).reshape(2, 3), batch=2, dtype="float64", finite=True, cast="all"),
      low=optional(number(0.0)),
      high=optional(number(5.0, low=1.0)),
    ),
  ),
  "classify": Row(
    lambda w: evaluation.classify,
    dict(
      model=instance(lambda w: w.labelled),
      images=PICTURES,
      labels=labels(LABELS, 3, one=False),
      num_samples=SAMPLES,
      batch_size=BATCH,
      seed=seed(0),
    ),
  ),
  "evaluate_bits_per_dim": Row(
    lambda w: evaluation.evaluate_bits_per_dim,
    dict(
      model=instance(lambda w: w.model),
      images=PICTURES,
      num_samples=SAMPLES.but("list", "array"),
      batch_size=count(3, huge=same(100)),
      seed=seed(0),
      partial=optional(path(lambda w: w.new("partial.npy"), there=False)),
      verbose=count(0, low=0, huge=same(0)).but("boolean"),
    ),
  ),
  "evaluate_bits_per_dim/given": Row(
    lambda w: lambda given: evaluation.evaluate_bits_per_dim(w.labelled, IMAGES, given=given),
    dict(
      given=mapping({"labels": LABELS})
      .also(("labels of others", {"labels": LABELS[:2]}), ("key", {"label": LABELS}))
      .named("labels")
    ),
  ),
  "evaluate_bits_per_dim/inside": Row(
    lambda w: lambda inside: evaluation.evaluate_bits_per_dim(w.model, IMAGES, inside=inside), dict(inside=INSIDE)
  ),
  "FeatureNetwork.train": Row(
    lambda w: evaluation.FeatureNetwork.train,
    dict(dataset=instance(lambda w: w.dataset), seed=count(0, low=0), steps=optional(count(1))),
    lambda features: look(features.network),
    slow=True,
  ),
  "FeatureNetwork.cached": Row(
    lambda w: evaluation.FeatureNetwork.cached,
    dict(
      dataset=instance(lambda w: w.dataset),
      cache_dir=optional(path(lambda w: w.new("cache"), there=False)),
      seed=count(0, low=0),
    ),
    lambda features: look(features.network),
    slow=True,
  ),
  "FeatureNetwork.__call__": Row(
    lambda w: w.features.__call__, dict(images=PICTURES, batch_size=count(3, huge=same(100)))
  ),
  "FeatureNetwork.accuracy": Row(
    lambda w: w.features.accuracy, dict(dataset=instance(lambda w: w.dataset), split=name("test"))
  ),
  "SampleEvaluator": Row(
    lambda w: evaluation.SampleEvaluator,
    dict(dataset=instance(lambda w: w.dataset), features=instance(lambda w: w.features), split=name("test")),
    lambda evaluator: look(evaluator(np.tile(IMAGES, [7, 1, 1, 1]))),
  ),
  "SampleEvaluator.__call__": Row(
    lambda w: evaluation.SampleEvaluator(w.dataset, w.features).__call__,
    dict(images=images(np.tile(IMAGES, [7, 1, 1, 1]), 8)),
  ),
  "SampleEvaluator.real": Row(
    lambda w: evaluation.SampleEvaluator(w.twenty, w.features).real, dict(n=count(20, low=20, huge=same(20)))
  ),
  "frechet_distance": Row(
    lambda w: evaluation.frechet_distance,
    dict(
      features=real(NORMAL(5, 3), event=2, dtype="float64", finite=True, cast="all").named("other"),
      other=real(NORMAL(6, 3) + 1, event=2, dtype="float64", finite=True, cast="all"),
    ),
  ),
  "image_grid": Row(
    lambda w: evaluation.image_grid,
    dict(
      images=images(GREY, 8)
      .but("another height", "another width", "another number of channels")
      .also(("two channels", IMAGES)),
      levels=optional(count(8, low=2, most=1 << 16)),
      columns=optional(count(2, huge=None)),
      gap=count(1, low=0, huge=None),
      wide_rows=some_of([1]).but("list with a wrong number"),
      wide_columns=some_of([1]).but("list with a wrong number"),
      title=text("title"),
      row_labels=some_of(["a", "b"]).but("list with a wrong text"),
    ),
  ),
  "interpolate": Row(
    lambda w: evaluation.interpolate,
    dict(
      batched=instance(lambda w: w.batched),
      first=images(IMAGES[0], 8).but("one image"),
      last=images(IMAGES[1], 8).but("one image"),
      frames=count(3, low=2),
      seed=seed(0),
    ),
  ),
  "slerp": Row(
    lambda w: evaluation.slerp,
    dict(
      z0=real(NORMAL(2, 3), event=2, finite=True, cast="all").named("z1"),
      z1=real(NORMAL(2, 3) + 1, event=2, finite=True, cast="all"),
      t=real(np.array([0.0, 0.5, 1.0]), finite=True, cast="all"),
    ),
  ),
  "load_typical": Row(
    lambda w: evaluation.load_typical, dict(path=path("nothing").but("missing", "in no folder"), key=mapping({}))
  ),
  "ValidationStatistics.save": Row(
    lambda w: evaluation.ValidationStatistics(1, 2.0, None).save,
    dict(path=path(lambda w: w.new("typical.json"), there=False), key=mapping({})),
  ),
  "codec_bytes": Row(
    lambda w: evaluation.codec_bytes,
    dict(image=images(GREY[0], 256, exact=False).but("one image").named("images")),
    lambda sizes: look(np.array([*sizes.values()])),
    slow=True,
  ),
  "measure_codecs": Row(lambda w: evaluation.measure_codecs, dict(images=images(GREY, 256, exact=False)), slow=True),
  "measure_codecs/inside": Row(lambda w: lambda inside: evaluation.measure_codecs(GREY, inside), dict(inside=INSIDE)),
  "measure_typical": Row(
    lambda w: evaluation.measure_typical,
    dict(
      scorer=instance(lambda w: w.scorer),
      images=PICTURES,
      most_images=count(2, huge=same(3)),
      batch_size=BATCH,
      progress=function(lambda done: None),
    ),
  ),
  "nearest_neighbours": Row(
    lambda w: evaluation.nearest_neighbours,
    dict(
      images=images(IMAGES[:2], 8).but("too large", "too large uint8"),
      training_images=images(IMAGES, 8).but("too large", "too large uint8").named("images"),
      neighbours=count(2, most=3),
    ),
  ),
  "plot_curves": Row(
    lambda w: evaluation.plot_curves,
    dict(rows=some_of(ROWS_OF_METRICS), path=path(lambda w: w.new("curves.png"), there=False)),
    slow=True,
  ),
  "png_bytes": Row(
    lambda w: evaluation.png_bytes, dict(image=images(IMAGES[0], 256, exact=False).but("one image").named("images"))
  ),
  "read_record": Row(lambda w: evaluation.read_record, dict(path=path(lambda w: w.new("a.json")).but("missing"))),
  "write_record": Row(
    lambda w: evaluation.write_record,
    dict(
      path=path(lambda w: w.new("a.json"), there=False),
      split=text("test"),
      result=instance(RESULT),
      fingerprint=mapping({"sha256": "a"}),
      checkpoint=mapping({"sha256": "b"}),
      seed=count(0, low=-(2**63), huge=same(2**62)),
      codecs=some_of([]),
    ),
  ),
  "reconstruct": Row(
    lambda w: evaluation.reconstruct, dict(batched=instance(lambda w: w.batched), images=PICTURES, seed=seed(0))
  ),
  "conformal_p_value": Row(
    lambda w: evaluation.conformal_p_value,
    dict(
      calibration=SOUND,
      scores=real(np.arange(3.0), batch=1, dtype="float64", finite=True, cast="all"),
      two_sided=flag(False),
    ),
  ),
  "conformal_threshold": Row(
    lambda w: evaluation.conformal_threshold, dict(calibration=SOUND, false_alarms=number(0.25, low=0.1, high=0.9))
  ),
  "scores_of": Row(
    lambda w: evaluation.scores_of,
    dict(
      images=PICTURES.but(
        "too large", "too large uint8", "another height", "another width", "another number of channels", "transposed"
      ),
      log_likelihood=real(-np.arange(3.0) - 1, event=1, dtype="float64", cast="all"),
      typical=optional(number(3.0)),
      names=some_of(["bits_per_dim", "png_bytes"]),
    ),
  ),
  "to_shades": Row(
    lambda w: evaluation.to_shades,
    dict(
      images=PICTURES.but(
        "another height",
        "another width",
        "another number of channels",
        "transposed",
        "one image",
        "an axis too few",
        "an axis too many",
        "a number",
      ),
      levels=optional(count(8, low=2, most=1 << 16)),
    ),
  ),
  "write_animation": Row(
    lambda w: evaluation.write_animation,
    dict(
      images=images(GREY, 8).but("another height", "another width", "another number of channels"),
      levels=optional(count(8, low=2, most=1 << 16)),
      path=path(lambda w: w.new("a.gif"), there=False).also(("ending", "a.txt")),
      seconds=number(0.1, 0, ends=False),
    ),
  ),
}


_COMPRESSION = {
  "compress": Row(
    lambda w: fpp.compress, dict(model=instance(lambda w: w.codec), images=ARRAYS, embed_model=flag(False))
  ),
  "compress/tier": Row(
    lambda w: lambda tier: fpp.compress(w.model, IMAGES, tier=tier), dict(tier=name("portable")), slow=True
  ),
  "decompress": Row(
    lambda w: fpp.decompress,
    dict(
      model=optional(instance(lambda w: w.codec)),
      data=binary(lambda w: w.archive).named("archive"),
      start=count(1, low=0, huge=same(2**40)).but("too small", "negative"),
      stop=optional(count(2, low=0, huge=same(3))).but("too small", "negative"),
    ),
  ),
  "compress_to": Row(
    lambda w: lambda **kwargs: _written(compression.compress_to, **kwargs),
    dict(
      file=instance(lambda w: io.BytesIO()),
      coder=instance(lambda w: w.codec),
      images=ARRAYS,
      segment_images=count(2, huge=same(4096)),
      embed_model=flag(False),
      max_batch=optional(count(2, huge=same(100))),
      progress=function(lambda count: None),
    ),
  ),
  "read_images": Row(
    lambda w: lambda **kwargs: [*compression.read_images(**kwargs)],
    dict(
      reader=instance(lambda w: w.reader),
      coder=instance(lambda w: w.codec),
      numbers=optional(some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)])),
    ),
  ),
  "coder_for": Row(
    lambda w: compression.coder_for,
    dict(reader=instance(lambda w: w.reader), model=optional(instance(lambda w: w.codec))),
    repr,
  ),
  "TieredCodec": Row(
    lambda w: compression.TieredCodec,
    dict(model=instance(lambda w: w.codec.model), tier=name("portable"), from_bytes=optional(count(1 << 20))),
    lambda codec: codec.probe,
  ),
  "ArchiveReader": Row(
    lambda w: compression.ArchiveReader,
    dict(file=instance(lambda w: io.BytesIO(w.archive))),
    lambda reader: look(reader.header),
  ),
  "ArchiveReader.check": Row(lambda w: w.reader.check, dict(coder=instance(lambda w: w.codec))),
  "ArchiveReader.segments": Row(
    lambda w: lambda **kwargs: [*w.reader.segments(**kwargs)],
    dict(
      numbers=optional(some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)])),
      start=count(0, low=0, huge=same(2**40)),
    ),
  ),
  "ArchiveReader.decode": Row(
    lambda w: w.reader.decode,
    dict(segment=instance(lambda w: next(w.reader.segments())), coder=instance(lambda w: w.codec)),
  ),
  "ArchiveReader.decoded": Row(
    lambda w: lambda **kwargs: [result[0] for _, result in w.reader.decoded(**kwargs)],
    dict(
      coder=instance(lambda w: w.codec),
      numbers=optional(some_of([0], [("negative", -1), ("too large", 5), ("fraction", 0.5)])),
      start=count(0, low=0, huge=same(2**40)),
    ),
  ),
  "ArchiveWriter": Row(
    lambda w: compression.ArchiveWriter,
    dict(
      file=instance(lambda w: io.BytesIO()),
      coder=instance(lambda w: w.codec),
      kind=name("images"),
      embed_model=flag(False),
      max_batch=optional(count(2, huge=same(2**62))),
      progress=function(lambda count: None),
      version=count(2, low=2, most=3),
    ),
    lambda writer: None,
  ),
  "ArchiveWriter.write_segment": Row(
    lambda w: w.writer.write_segment,
    dict(
      images=ARRAYS.but("too large uint8", "no images"),
      extra=binary(b"extra").but("empty", "others", "half"),
      instead=some_of([b"instead"], [("number", 1), ("numbers", [1])]),
      behind=some_of([b"behind"], [("number", 1), ("numbers", [1])]),
    ),
  ),
  "ArchiveWriter.write_segments": Row(
    lambda w: lambda **kwargs: [*w.writer.write_segments(**kwargs)],
    dict(
      contents=some_of(
        [(IMAGES, b"extra")],
        [
          ("empty tuple", ()),
          ("one array", IMAGES),
          ("no bytes", (IMAGES, 5)),
          ("six", (IMAGES, b"", (), None, (), 1)),
        ],
      )
    ),
  ),
  "ArchiveWriter.write_segment/runs": Row(
    lambda w: (
      lambda runs: compression.ArchiveWriter(io.BytesIO(), compression.TieredCodec(w.tile_model)).write_segment(
        IMAGES, runs=runs
      )
    ),
    dict(
      runs=optional(
        some_of([(8, 5, 0, 3)], [("too many", (8, 5, 0, 4)), ("too few", (4, 4, 0, 1)), ("fraction", (8, 5, 0, 2.5))])
      )
    ),
    slow=True,
  ),
  "CodecModel": Row(
    lambda w: compression.CodecModel,
    dict(description=mapping(lambda w: w.codec.model.description), weights=mapping(lambda w: w.codec.model.weights)),
    lambda model: model.sha256(),
  ),
  "CodecModel.from_bytes": Row(
    lambda w: compression.CodecModel.from_bytes,
    dict(data=binary(lambda w: w.codec.model.to_bytes()).named("codec model"), name=text("codec model")),
    lambda model: model.sha256(),
  ),
  "CodecModel.load": Row(
    lambda w: compression.CodecModel.load, dict(path=path(lambda w: _file(w))), lambda m: m.sha256()
  ),
  "CodecModel.from_model": Row(
    lambda w: compression.CodecModel.from_model, dict(model=instance(lambda w: w.model)), lambda m: m.sha256()
  ),
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

"""Data sets and their batches."""

import numpy as np
import tensorflow as tf

from flowpp_tf import data
from flowpp_tf.data.pipeline import grid_tiles
from support.models import MINIMAL, small_images
from support.public_callables.row import look, row
from support.wrong_values import (
  count,
  flag,
  function,
  images,
  instance,
  labels,
  mapping,
  name,
  optional,
  path,
  same,
  some_of,
  text,
)

IMAGES = small_images(4)
LARGER = np.random.RandomState(0).randint(0, 256, [4, 4, 4, 2]).astype(np.uint8)
# What NumPy can index: values are not read before they are used, shape and dtype are.
BY_VALUE = (
  "negative",
  "too large",
  "too large uint8",
  "another height",
  "another width",
  "another number of channels",
  "transposed",
)
# What is the matter of the model that sees the batches.
OF_THE_MODEL = (
  "divided",
  "divided doubles",
  "fractional",
  "list of fractions",
  "fractional tensor",
  "negative floats",
  "NaN",
  "infinite",
  "-infinite",
)
INDEXED = images(IMAGES, 256).but(*BY_VALUE, *OF_THE_MODEL)
CLASSES = optional(labels([0, 1, 2, 0], 3, one=False)).but("too large", "negative", "no label")
SPLITS = dict(train=IMAGES, validation=IMAGES[:1], test=IMAGES[1:])
SPLIT = images(IMAGES, 8)
PIXELS = np.random.RandomState(0).randint(0, 256, [5 * 6 + 4 * 4, 3]).astype(np.uint8)
CROPS = lambda w, **more: data.RandomCrops(PIXELS, [(5, 6), (4, 4)], (2, 2, 3), **more)
BATCH = count(2)
TRAINING = dict(
  seed=count(0, low=0, huge=same(2**62)).but("negative", "too small"),
  start_step=count(1, low=0, huge=None),
  num_shards=count(2).named("batch_size"),
  shard=count(1, low=0, most=1),
  flip=flag(False),
)

ROWS = {
  "load_dataset": row(
    name=name("digits").named("dataset"),
    data_dir=optional(path("/data").but("missing", "empty", "null byte")),
    cache_dir=optional(path("/cache").but("missing", "empty", "null byte")),
  ),
  "register_dataset": row(
    name=text("mine").also(("empty", ""), ("taken", "digits"), ("of a kind", "folder:mine")),
    function=function(lambda labels: None).also(("other parameters", lambda colour: None)),
    reset=lambda w: data.DATASETS.pop("mine", None),
  ),
  "load_dataset/photos": row(
    lambda w: lambda **kwargs: data.load_dataset("photos", **kwargs),
    image_shape=(32, 32, 3),
    levels=optional(count(256, low=2, most=1 << 16)),
    crops=False,
    slow=True,
  ),
  "load_dataset/folder": row(
    lambda w: lambda **kwargs: data.load_dataset(f"folder:{w.pictures}", image_shape=(8, 8, 3), **kwargs),
    max_bad_files=count(1, low=0, huge=None),
    splits_file=lambda w: w.splits,
  ),
  "load_dataset/neighbours": row(
    lambda w: (
      lambda neighbours: data.load_dataset(
        f"folder:{w.pictures}", image_shape=(8, 8, 3), crops=True, neighbours=neighbours
      )
    ),
    neighbours=True,
  ),
  "load_dataset/bits": row(
    lambda w: lambda bits: data.load_dataset("photos", bits=bits), bits=optional(count(5, most=8)), slow=True
  ),
  "DataPipeline": row(
    dataset=lambda w: w.dataset,
    condition=lambda images: images,
    labels=True,
    look=lambda pipeline: pipeline.of_evaluation("test", 2).element_spec,
  ),
  "DataPipeline.of_training": row(lambda w: data.DataPipeline(w.dataset).of_training, batch_size=BATCH, **TRAINING),
  "DataPipeline.of_evaluation": row(
    lambda w: data.DataPipeline(w.dataset).of_evaluation, split=name("test"), batch_size=count(4, huge=same(100))
  ),
  "training_batches": row(images=INDEXED, batch_size=BATCH, labels=CLASSES, **TRAINING),
  "evaluation_batches": row(images=INDEXED, batch_size=count(4, huge=same(100)), labels=CLASSES),
  "weighted_batches": row(batches=tf.data.Dataset.from_tensors(tf.zeros([3, 2])), multiple=count(2, huge=None)),
  "ImageDataset": row(
    lambda w: lambda **kwargs: data.ImageDataset(**{"name": "small", "levels": 8, **SPLITS, **kwargs}),
    name="small",
    levels=optional(count(8, low=2, most=1 << 16)),
    train=SPLIT.but("another height", "another width", "transposed", "another number of channels").also(
      ("another height", IMAGES[:, :2])
    ),
    validation=SPLIT,
    test=SPLIT,
    version="1",
    notes=some_of(["note"]).but("list with a wrong text"),
  ),
  "ImageDataset/labels": row(
    lambda w: (
      lambda labels, classes: data.ImageDataset("small", 8, IMAGES, IMAGES, IMAGES, labels=labels, classes=classes)
    ),
    labels=optional(mapping({split: np.array([0, 1, 2, 0]) for split in data.SPLITS}))
    .but("None")
    .also(
      ("None", None),
      *(
        (f"{name} labels", {split: value for split in data.SPLITS})
        for name, value in (
          ("fractional", np.array([0.5] * 4)),
          ("too large", np.array([3] * 4)),
          ("negative", np.array([-1] * 4)),
          ("too few", np.array([1])),
          ("text", "abcd"),
        )
      ),
      ("a split too few", {"train": np.array([0, 1, 2, 0])}),
    ),
    classes=some_of(("a", "b", "c")).but("list with a wrong text"),
  ),
  "ImageDataset.check": row(lambda w: w.dataset.check, config=MINIMAL),
  "ImageDataset.labels_of": row(lambda w: w.dataset.labels_of, split=name("test")),
  "ImageDataset.split": row(lambda w: w.dataset.split, name=name("test").named("split")),
  "ImageDataset.reduce_bits": row(lambda w: w.bytes_dataset.reduce_bits, bits=count(5, most=8)),
  "load_dataset/random_field": row(
    lambda w: lambda **kwargs: data.load_dataset("random_field", **kwargs), real_valued=True
  ),
  "GaussianFields": row(
    count=count(3, huge=same(2**40)),
    spectrum=instance(np.ones([4, 4])),
    seed=count(1, low=0, huge=None),
    look=lambda fields: look(fields[:2]),
  ),
  "RandomCrops": row(
    pixels=images(PIXELS, 256, exact=False)
    .but("one image", "a number")
    .also(("too few", PIXELS[:20]), ("too many", np.concatenate([PIXELS] * 2))),
    sizes=some_of([(5, 6), (4, 4)], [("size", (1, 1)), ("fraction", (4.5, 4.5))]),
    image_shape=(2, 2, 3),
    most=optional(count(2, huge=same(100))),
    levels=optional(count(17, low=2, most=256)),
    look=lambda crops: crops[:],
  ),
  "RandomCrops.with_neighbours": row(
    lambda w: CROPS(w).with_neighbours,
    levels=optional(count(17, low=2, most=256)),
    look=lambda crops: grid_tiles(crops, np.array([0]))[1],
  ),
  "ReducedBits": row(images=images(LARGER, 256).but(*BY_VALUE), bits=count(5, most=8), look=lambda images: images[:]),
  "describe": row(fingerprint=lambda w: w.dataset.fingerprint()),
}

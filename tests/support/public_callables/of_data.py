"""Data sets and their batches."""

import numpy as np
import tensorflow as tf

from flowpp_tf import data
from flowpp_tf.data.pipeline import grid_tiles
from support import wrong_values as wrong
from support.models import MINIMAL, small_images
from support.public_callables.row import look, row

GENERATED = ("data",)
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
INDEXED = wrong.images(IMAGES, 256).but(*BY_VALUE, *OF_THE_MODEL)
CLASSES = wrong.optional(wrong.labels([0, 1, 2, 0], 3, one=False)).but("too large", "negative", "no label")
SPLITS = dict(train=IMAGES, validation=IMAGES[:1], test=IMAGES[1:])
SPLIT = wrong.images(IMAGES, 8)
PIXELS = np.random.RandomState(0).randint(0, 256, [5 * 6 + 4 * 4, 3]).astype(np.uint8)
CROPS = lambda w, **more: data.RandomCrops(PIXELS, [(5, 6), (4, 4)], (2, 2, 3), **more)
LEVELS = wrong.optional(wrong.count(8, low=2, most=1 << 16))
ALL = wrong.count(4, huge=wrong.same(100))  # images at once
BITS = wrong.count(5, most=8)
OBJECTS = {"DataPipeline": lambda w: data.DataPipeline(w.dataset), "ImageDataset": lambda w: w.dataset}
USUAL = dict(
  batch_size=2,
  seed=wrong.count(0, huge=wrong.same(2**62)).but("negative", "too small"),
  start_step=wrong.count(1, low=0, huge=None),
  num_shards=wrong.count(2).named("batch_size"),
  shard=wrong.count(1, low=0, most=1),
  dataset=lambda w: w.dataset,
  split=wrong.name("test"),
  levels=LEVELS,
  bits=BITS,
  config=MINIMAL,
)

ROWS = {
  "load_dataset": row(
    name=wrong.name("digits").named("dataset"),
    data_dir=wrong.optional(wrong.path("/data").but("missing", "empty", "null byte")),
    cache_dir=wrong.optional(wrong.path("/cache").but("missing", "empty", "null byte")),
  ),
  "register_dataset": row(
    name=wrong.text("mine").also(("empty", ""), ("taken", "digits"), ("of a kind", "folder:mine")),
    function=wrong.instance(lambda labels: None).also(("other parameters", lambda colour: None)),
    reset=lambda w: data.DATASETS.pop("mine", None),
  ),
  "load_dataset/photos": row(
    lambda w: lambda **kwargs: data.load_dataset("photos", **kwargs),
    image_shape=(32, 32, 3),
    levels=LEVELS._replace(valid=256),
    crops=False,
    slow=True,
  ),
  "load_dataset/folder": row(
    lambda w: lambda **kwargs: data.load_dataset(f"folder:{w.pictures}", image_shape=(8, 8, 3), **kwargs),
    max_bad_files=wrong.count(1, low=0, huge=None),
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
    lambda w: lambda bits: data.load_dataset("photos", bits=bits), bits=wrong.optional(BITS), slow=True
  ),
  "DataPipeline": row(
    condition=lambda images: images,
    labels=True,
    look=lambda pipeline: pipeline.evaluation_batches("test", 2).element_spec,
  ),
  "DataPipeline.evaluation_batches": row(batch_size=ALL),
  "training_batches": row(images=INDEXED, labels=CLASSES),
  "evaluation_batches": row(images=INDEXED, batch_size=ALL, labels=CLASSES),
  "weighted_batches": row(batches=tf.data.Dataset.from_tensors(tf.zeros([3, 2])), multiple=wrong.count(2, huge=None)),
  "ImageDataset": row(
    lambda w: lambda **kwargs: data.ImageDataset(**{"name": "small", "levels": 8, **SPLITS, **kwargs}),
    name="small",
    train=SPLIT.but("another height", "another width", "transposed", "another number of channels").also(
      ("another height", IMAGES[:, :2])
    ),
    validation=SPLIT,
    test=SPLIT,
    version="1",
    notes=wrong.some_of(["note"]).but("list with a wrong text"),
  ),
  "ImageDataset/labels": row(
    lambda w: (
      lambda labels, classes: data.ImageDataset("small", 8, IMAGES, IMAGES, IMAGES, labels=labels, classes=classes)
    ),
    labels=wrong.optional(wrong.mapping({split: np.array([0, 1, 2, 0]) for split in data.SPLITS}))
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
    classes=wrong.some_of(("a", "b", "c")).but("list with a wrong text"),
  ),
  "ImageDataset.split": row(name=wrong.name("test").named("split")),
  "ImageDataset.reduce_bits": row(lambda w: w.bytes_dataset.reduce_bits),
  "load_dataset/random_field": row(
    lambda w: lambda **kwargs: data.load_dataset("random_field", **kwargs), real_valued=True
  ),
  "GaussianFields": row(
    count=wrong.count(3, huge=wrong.same(2**40)),
    spectrum=wrong.instance(np.ones([4, 4])),
    seed=wrong.count(1, low=0, huge=None),
    look=lambda fields: look(fields[:2]),
  ),
  "RandomCrops": row(
    pixels=wrong.images(PIXELS, 256, exact=False)
    .but("one image", "a number")
    .also(("too few", PIXELS[:20]), ("too many", np.concatenate([PIXELS] * 2))),
    sizes=wrong.some_of([(5, 6), (4, 4)], [("size", (1, 1)), ("fraction", (4.5, 4.5))]),
    image_shape=(2, 2, 3),
    most=wrong.optional(wrong.count(2, huge=wrong.same(100))),
    levels=wrong.optional(wrong.count(17, low=2, most=256)),
    look=lambda crops: crops[:],
  ),
  "RandomCrops.with_neighbours": row(
    lambda w: CROPS(w).with_neighbours,
    levels=wrong.optional(wrong.count(17, low=2, most=256)),
    look=lambda crops: grid_tiles(crops, np.array([0]))[1],
  ),
  "ReducedBits": row(images=wrong.images(LARGER, 256).but(*BY_VALUE), look=lambda images: images[:]),
  "describe": row(fingerprint=lambda w: w.dataset.fingerprint()),
}

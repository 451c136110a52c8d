"""Load data sets of TensorFlow Datasets, prepared or downloaded, some of them also from published files.

Missing splits are taken from the end of train, see `split_train`. Labels come from the ClassLabel feature `label`,
else from the only ClassLabel feature.

The two downsampled ImageNets have different images and cannot be compared: they differ by about a quarter
bit/dim. For both, test is the published validation, on which papers report, and validation is taken from train.

The benchmarks of the field have names of their own:

imagenet32_old, imagenet64_old: van den Oord et al. 2016, used in the Flow++ paper.
imagenet32_new, imagenet64_new: Chrabaszcz et al. 2017, by box resizing.
celeb_a: the central 148x148 of the aligned 218x178 photographs (RealNVP crops "approximately" this),
    resized to 64x64 or 128x128 by Lanczos with antialiasing; published splits.
celeb_a_hq: CelebA-HQ, 30,000 images, as published at 64x64 or 128x128; the released Flow++ models were
    trained on it. No splits are published: test is the last tenth.
svhn: the cropped digits without the extra ones.
cifar10, cifar100: from their archives too, see published.py; the order is the same.
mnist, fashion_mnist: from their IDX files too, in the folder `data_dir`, or where Debian's packages put them; in the
    order of these files, which differs from TensorFlow Datasets.
"""

import contextlib
import dataclasses
import functools
import sys
import urllib.error
import urllib.parse
import urllib.request

from absl import logging
import numpy as np
from PIL import Image
import tensorflow as tf

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache, images, published
from flowpp_tf.data.dataset import MOST_CLASSES, SPLITS, ImageDataset, split_train
from flowpp_tf.io.budget import size_text
from flowpp_tf.io.gate import reason
from flowpp_tf.types import Path, Shape


@dataclasses.dataclass(frozen=True)
class _Set:
  """How to load a data set."""

  builder: str  # name in TensorFlow Datasets; {size} stands for the model's
  sizes: tuple[int, ...] = ()  # available sizes, if the model's shape chooses one
  crop: int | None = None  # size of the central crop before resizing
  test: str = "test"  # published split to report on
  classes: tuple[str, ...] = ()  # their names, where TensorFlow Datasets has them only in the files it downloads


_SETS = {
  "cifar10": _Set("cifar10", classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split())),
  "cifar100": _Set(
    "cifar100",
    classes=tuple(
      "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
      "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
      "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
      "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
      "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark "
      "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
      "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm".split()
    ),
  ),
  "svhn": _Set("svhn_cropped"),
  "mnist": _Set("mnist"),
  "fashion_mnist": _Set("fashion_mnist"),
  "imagenet32_old": _Set("downsampled_imagenet/32x32", test="validation"),
  "imagenet64_old": _Set("downsampled_imagenet/64x64", test="validation"),
  "imagenet32_new": _Set("imagenet_resized/32x32", test="validation"),
  "imagenet64_new": _Set("imagenet_resized/64x64", test="validation"),
  "celeb_a": _Set("celeb_a", sizes=(64, 128), crop=148),
  "celeb_a_hq": _Set("celeb_a_hq/{size}", sizes=(64, 128)),
}
_VALIDATION_IMAGES = {49_999: "old", 50_000: "new"}  # of the two downsampled ImageNets
_LABELS_PER_READ = 1024
_PATIENCE = 20  # seconds until a host must have answered; TensorFlow Datasets itself has no limit


def load_set(
  name: str,
  data_dir: Path | None = None,
  image_shape: Shape | None = None,
  cache_dir: Path | None = None,
  labels: bool = False,
  download: bool = False,
) -> ImageDataset:
  """Load a benchmark of the field, or any set of TensorFlow Datasets with an image feature.

  Args:
    name: one of `_SETS`, or "tfds:" and a name in TensorFlow Datasets.
    data_dir: folder of TensorFlow Datasets or of the published files; None for the former's default, and for the place
      of Debian's packages. An archive of CIFAR can be named itself.
    image_shape: `(H, W, C)` of the model; chooses the size of a benchmark with several sizes, and images of other sets
      are cropped and resized to it as in a folder.
    cache_dir: see `cache.decoded_images`.
    labels: whether to load the class of each image, too.
    download: whether TensorFlow Datasets may download what is missing.

  Raises:
    InputError (a ValueError): if the data are missing, with the ways to get them, or wrong, or if they have no labels.
  """
  entry = _SETS.get(name) or _Set(name.removeprefix("tfds:"))
  if entry.sizes and image_shape not in [(size, size, 3) for size in entry.sizes]:
    sizes = " and ".join(f"{size}x{size}x3" for size in entry.sizes)
    raise InputError(f"data set {name!r} is available at {sizes}, got `image_shape` {image_shape}")
  builder_name = entry.builder
  if entry.sizes and image_shape:
    builder_name = builder_name.format(size=image_shape[0])
  builder = _builder(builder_name, data_dir)
  notes: tuple[str, ...] = ()
  files = None
  if not builder.data_path.exists():
    files = published.read_published(name, data_dir, labels)
  if files:
    version, splits, labels_by_split = files
    classes = entry.classes or (tuple(builder.info.features["label"].names) if labels else ())
  else:
    _prepare(name, builder, data_dir, download)
    labels_by_split, classes = _read_labels(builder) if labels else (None, ())
    fitted_shape = image_shape if entry.sizes or name not in _SETS else None
    splits, notes = _read(builder, fitted_shape, entry.crop, cache_dir)
    version = builder.info.full_name

  def make_three_splits(arrays):
    if entry.test != "test":
      arrays = {"train": arrays["train"], "test": arrays[entry.test]}
    return split_train(arrays)

  if entry.test == "validation":
    count = len(splits["validation"])
    kind = _VALIDATION_IMAGES.get(count)
    if kind and not name.endswith(kind):
      raise InputError(f"data set {name!r}: {count:,} validation images are those of {name[:-3]}{kind}")
    notes = *notes, "test is the published validation"
  splits, cuts = make_three_splits(splits)
  if not labels_by_split:
    return ImageDataset(name, levels=256, version=version, notes=(*notes, *cuts), **splits)
  labels_by_split, _ = make_three_splits(labels_by_split)
  return ImageDataset(
    name, levels=256, version=version, notes=(*notes, *cuts), labels=labels_by_split, classes=classes, **splits
  )


def _tfds(what="a set of TensorFlow Datasets"):
  return import_extra("tensorflow_datasets", "data", what)  # not at the top: the import is slow, too


def _builder(name, data_dir):
  """Return the builder of the newest prepared version, or of the version that can be prepared."""
  tfds = _tfds(f"the data set {name!r}")
  version = {} if ":" in name else {"version": "*.*.*"}  # lets TensorFlow Datasets look for prepared data first
  try:
    return tfds.builder(name, data_dir=data_dir, **version)
  except Exception as error:  # an unknown name raises many exception types
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    raise InputError(f"TensorFlow Datasets has no {name!r}: {lines[0]}") from None


def _image_feature(builder):
  """Return the name of the image feature of a set."""
  features = builder.info.features
  found = [key for key, feature in features.items() if isinstance(feature, _tfds().features.Image)]
  if not found:
    raise InputError(f"{builder.info.full_name} has no image feature; it has {', '.join(features)}")
  return "image" if "image" in found else found[0]


def _prepare(name, builder, data_dir, download):
  """Download a set that is not prepared, or raise an `InputError` with the ways to get it."""
  _image_feature(builder)  # first, so that no error asks to prepare a set without images
  if builder.data_path.exists():
    return
  missing = f"data set {name!r} is not prepared: looked for {builder.data_path}"
  command = f"tfds build {builder.info.full_name.rpartition('/')[0]}" + (f" --data_dir={data_dir}" if data_dir else "")
  files = published.files_of(name)
  if name in published.IMAGENET_SIZES:
    raise InputError(f"{missing}; it can no longer be downloaded: give as --data_dir {files}")
  if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
    by_hand = f"--manual_dir=FOLDER, with the files of {builder.info.homepage} in FOLDER"
    raise InputError(f"{missing}; prepare it by: {command} {by_hand}")
  others = [f"or give as --data_dir {files}"] if files else []
  if not download:
    way = "or let it be downloaded, without --nodownload; in Python by `download=True`"
    raise InputError(f"{missing}; prepare it by: {command}", way, *others)
  try:
    _download(name, builder)
  except Exception as error:  # of many libraries
    way = f"prepare it on a machine with a network, and give the folder as --data_dir: {command}"
    raise InputError(f"data set {name!r} cannot be downloaded: {reason(error)}", way, *others) from None


def _download(name, builder):
  """Download and prepare a set."""
  files = builder.url_infos or {}
  urls = {urllib.parse.urlsplit(url).hostname: url for url in files}
  at_most = "at most " if builder.builder_config else ""  # the files of all configs
  size = at_most + size_text(sum(file.size for file in files.values())) if files else "an unknown size"
  source = " and ".join(urls) or builder.info.homepage
  logging.warning(
    "TensorFlow Datasets downloads %s: %s from %s to %s; --nodownload refuses", name, size, source, builder.data_path
  )
  for host, url in urls.items():  # its own attempts would take minutes, without a network
    try:
      urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
      pass  # an answer
    except OSError as error:
      raise ConnectionError(f"{host} cannot be reached: {reason(getattr(error, 'reason', error))}") from None
  with contextlib.redirect_stdout(sys.stderr):
    builder.download_and_prepare(download_config=_tfds().download.DownloadConfig(try_download_gcs=False))


def _splits(builder):
  return [split for split in SPLITS if split in builder.info.splits]


def _examples(builder, split, feature, batch_size=None):
  """Yield a feature of each example of a split in order, or of each batch of them."""
  tfds = _tfds()
  examples = builder.as_dataset(
    split=split,
    batch_size=batch_size,
    read_config=tfds.ReadConfig(interleave_cycle_length=1),  # in order
    decoders=tfds.decode.PartialDecoding({feature: True}),
  )
  try:
    for example in tfds.as_numpy(examples):
      yield example[feature]
  except tf.errors.OpError as error:
    raise InputError(f"{split} in {builder.data_path} cannot be read: {error.message}") from None


def _read_labels(builder):
  """Return the labels by split, as `_read` the images, and the names of the classes."""
  features = builder.info.features
  kind = _tfds().features.ClassLabel
  found = [key for key, feature in features.items() if isinstance(feature, kind) and feature.num_classes]
  name = "label" if "label" in found or len(found) != 1 else found[0]
  if name not in found or features[name].num_classes > MOST_CLASSES:
    raise InputError(
      f"{builder.info.full_name} has no labels: it must have one ClassLabel feature, or one named 'label', of at most "
      f"{MOST_CLASSES:,} classes; it has {', '.join(features)}"
    )
  labels = {
    split: np.concatenate(list(_examples(builder, split, name, batch_size=_LABELS_PER_READ)))
    for split in _splits(builder)
  }
  return labels, tuple(features[name].names)


def _read(builder, image_shape, crop, cache_dir):
  """Return the images of train, validation and test by split, without the missing ones, and notes about them."""
  feature = _image_feature(builder)
  spec = builder.info.features[feature]
  if np.dtype(spec.np_dtype) not in (np.uint8, np.uint16):
    raise InputError(f"{builder.info.full_name}: {feature!r} must hold integers, got {spec.np_dtype}")
  image_shape = image_shape or spec.shape
  if None in image_shape:
    raise InputError(f"`image_shape` must say to which shape the images of {builder.info.full_name} are resized")
  images.check_channels(image_shape)
  counts = {split: builder.info.splits[split].num_examples for split in _splits(builder)}
  if "train" not in counts:
    found = ", ".join(builder.info.splits)
    raise InputError(f"{builder.info.full_name} has no split 'train'; it has {found}")
  fit = functools.partial(_fit, image_shape=tuple(image_shape), crop=crop)
  parts = (
    (split, image[np.newaxis])
    for split in counts
    for image in images.parallel_map(fit, _examples(builder, split, feature))
  )
  files = sorted(
    (path.name, path.stat().length, path.stat().mtime)  # an epath: the data may be in a bucket
    for path in builder.data_path.iterdir()
    if path.is_file()
  )
  identity = [str(builder.data_path), feature, crop, files]
  name = builder.info.full_name
  arrays, _ = cache.decoded_images(name, identity, counts, image_shape, parts, cache_dir=cache_dir)
  if np.dtype(spec.np_dtype) == np.uint16:
    return arrays, ("of 16 bits, of which the upper 8 are read",)
  return arrays, ()


def _fit(image, image_shape, crop):
  if image.dtype == np.uint16:
    image = (image >> 8).astype(np.uint8)
  if image.shape[-1] == 1:
    image = image[..., 0]
  image = Image.fromarray(image)
  if crop:
    image = images.centre_crop(image, crop, crop)
  return images.fit_image(image, image_shape)[0]

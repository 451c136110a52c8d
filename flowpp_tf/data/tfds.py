"""Data sets of TensorFlow Datasets, read from where they have been prepared; nothing is downloaded.

Names of the field's sets, and any other by its own name. Labels are left aside. Splits that a set does
not have are taken from the end of its train, see `complete_splits`.

The two downsampled ImageNets are other images, about a quarter bit/dim apart, and are never compared:
imagenet32_old, imagenet64_old: van den Oord et al. 2016, those of the Flow++ paper.
imagenet32_new, imagenet64_new: Chrabaszcz et al. 2017, by box resizing.
For both, test is the published validation, on which papers report, and validation is taken from train.

celeb_a: the aligned photographs of 218x178, their central 148x148 (as RealNVP has it, but for their
    "approximately"), resized to 64x64 or 128x128 by Lanczos with antialiasing; published splits.
celeb_a_hq: CelebA-HQ, 30,000 images, at 64x64 or 128x128 as published in that size; the released
    Flow++ models are of this. No splits are published: test is the last tenth.
svhn: the cropped digits without the extra ones.
"""

import dataclasses
import functools
import re

import numpy as np
from PIL import Image
import tensorflow as tf

from flowpp_tf.data import cache
from flowpp_tf.data import images
from flowpp_tf.data import published
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.dataset import complete_splits
from flowpp_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Set:
  """How a data set is to be had."""
  builder: str                 # name of TensorFlow Datasets; {size} for the model's
  sizes: tuple = ()            # heights and widths that there are, if the model's says which
  crop: int = None             # of the centre, before resizing
  test: str = "test"           # which published split is reported on
  published_size: int = None   # the set's own files can be read too
  total: int = None            # images of the split reported on, as published


_SETS = {
    "cifar10": _Set("cifar10"),
    "cifar100": _Set("cifar100"),
    "svhn": _Set("svhn_cropped"),
    "mnist": _Set("mnist"),
    "fashion_mnist": _Set("fashion_mnist"),
    "imagenet32_old": _Set("downsampled_imagenet/32x32", test="validation", total=49_999,
                           published_size=32),
    "imagenet64_old": _Set("downsampled_imagenet/64x64", test="validation", total=49_999,
                           published_size=64),
    "imagenet32_new": _Set("imagenet_resized/32x32", test="validation", total=50_000),
    "imagenet64_new": _Set("imagenet_resized/64x64", test="validation", total=50_000),
    "celeb_a": _Set("celeb_a", sizes=(64, 128), crop=148),
    "celeb_a_hq": _Set("celeb_a_hq/{size}", sizes=(64, 128)),
}
NAMES = tuple(_SETS)


def load_named(name, data_dir=None, image_shape=None, cache_dir=None):
  """One of `NAMES`.

  Args:
    name: one of `NAMES`.
    data_dir: folder of TensorFlow Datasets, or of the published files; None for the default of
      TensorFlow Datasets.
    image_shape: `(H, W, C)` of the model, for the sets that there are in several sizes.
    cache_dir: see `cache.decoded_images`.

  Raises:
    InputError (a ValueError): if the data are not there, naming what was looked for and the command
      that prepares it, or are others.
  """
  entry = _SETS[name]
  wanted = None
  if entry.sizes:
    if image_shape not in [(size, size, 3) for size in entry.sizes]:
      raise InputError(f"data set {name!r} is had at {' and '.join(f'{s}x{s}x3' for s in entry.sizes)}, "
                       f"by `image_shape`; got {image_shape}")
    wanted = image_shape
  builder = _builder(entry.builder.format(size=image_shape and image_shape[0]), data_dir)
  files = published.find_published(data_dir, entry.published_size) if (
      data_dir and entry.published_size) else None
  if _data_path(builder) or not files:
    builder = _prepared(name, builder, data_dir, entry)
    splits = _read(builder, wanted, entry.crop, cache_dir)
    version = builder.info.full_name
  else:
    splits = published.load_published(files, entry.published_size, cache_dir)
    version = " and ".join(path.name for path in files.values())
  if entry.test != "test":
    splits = {"train": splits["train"], "test": splits[entry.test]}
  if entry.total:
    _check_which_imagenet(name, entry, len(splits["test"]))
  splits, notes = complete_splits({s: splits[s] for s in splits if s in ("train", "validation", "test")})
  if entry.test != "test":
    notes = f"test is the published {entry.test}", *notes
  return ImageDataset(name, levels=256, version=version, notes=notes, **splits)


def load_any(name, data_dir=None, image_shape=None, cache_dir=None):
  """Any set of TensorFlow Datasets with an image feature; arguments as for `load_named`.

  Images are cropped and resized as those of a folder where they do not have the model's shape.
  """
  builder = _prepared(f"tfds:{name}", _builder(name, data_dir), data_dir)
  splits, notes = complete_splits(_read(builder, image_shape, None, cache_dir))
  return ImageDataset(f"tfds:{name}", levels=256, version=builder.info.full_name, notes=notes, **splits)


def _builder(name, data_dir):
  import tensorflow_datasets as tfds  # here, since it takes long to import

  try:
    return tfds.builder(name, data_dir=data_dir)
  except Exception as error:  # pylint: disable=broad-except  # it has many for names that it lacks
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    raise InputError(f"TensorFlow Datasets has no {name!r}: {lines[0]}") from None


def _data_path(builder):
  """Where the data are: of the builder's version, or else of the newest that is there, or None."""
  if builder.data_path.exists():
    return builder.data_path
  try:
    versions = [path for path in builder.data_path.parent.iterdir()
                if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").exists()]
  except OSError:
    return None
  return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _image_feature(builder):
  """The name of the images among the features of a set."""
  import tensorflow_datasets as tfds

  found = [key for key, feature in builder.info.features.items()
           if isinstance(feature, tfds.features.Image)]
  if not found:
    raise InputError(f"{builder.info.full_name} of TensorFlow Datasets has no image feature; it has "
                     f"{', '.join(builder.info.features)}")
  return "image" if "image" in found else found[0]


def _prepared(name, builder, data_dir, entry=None):
  """The builder of the data, if they are there."""
  import tensorflow_datasets as tfds

  _image_feature(builder)  # nobody is to prepare a set of another kind
  present = _data_path(builder)
  if present:  # with the features that it was written with
    return tfds.builder_from_directory(present)
  full_name = builder.info.full_name.rpartition("/")[0]  # the version is what it is
  command = f"tfds build {full_name}" + (f" --data_dir={data_dir}" if data_dir else "")
  if entry and entry.published_size:
    size = f"{entry.published_size}x{entry.published_size}"
    looked = (f" and {data_dir}/train_{size} with valid_{size} (.npy, .npz, .tar, .zip or a folder)"
              if data_dir else "")
    raise InputError(f"data set {name!r} is not there: looked for {builder.data_path}{looked}; its "
                     f"download is gone, so get the published train_{size}.tar and valid_{size}.tar and "
                     "name their folder as --data_dir")
  if builder.name == "celeb_a_hq":
    command += f" --manual_dir=FOLDER, with the published data{builder.builder_config.name}x" \
               f"{builder.builder_config.name}.tar in FOLDER"
  raise InputError(f"data set {name!r} is not prepared: looked for {builder.data_path}; prepare it by: "
                   f"{command}")


def _check_which_imagenet(name, entry, count):
  """The old and the new set are told apart by the number of their validation images."""
  other = {49_999: 50_000, 50_000: 49_999}[entry.total]
  if count == other:
    kind, size = ("new" if other == 50_000 else "old"), name[8:10]
    raise InputError(f"data set {name!r} has {entry.total:,} validation images, but what is there has "
                     f"{count:,}: that is imagenet{size}_{kind}")


def _read(builder, image_shape, crop, cache_dir):
  """`dict` of the images of the splits that there are of train, validation and test."""
  import tensorflow_datasets as tfds

  feature = _image_feature(builder)
  spec = builder.info.features[feature]
  if np.dtype(spec.np_dtype) not in (np.uint8, np.uint16):
    raise InputError(f"{builder.info.full_name}: {feature!r} must hold integers, got {spec.np_dtype}")
  image_shape = image_shape or spec.shape
  if None in image_shape:
    raise InputError(f"the images of {builder.info.full_name} are of many sizes: `image_shape` must say "
                     "which is wanted")
  images.check_channels(image_shape)
  counts = {split: builder.info.splits[split].num_examples
            for split in ("train", "validation", "test") if split in builder.info.splits}
  if "train" not in counts:
    raise InputError(f"{builder.info.full_name} has no split 'train'; it has "
                     f"{', '.join(builder.info.splits)}")

  def fill(arrays):
    for split, array in arrays.items():
      examples = builder.as_dataset(
          split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1),  # in order
          decoders=tfds.decode.PartialDecoding({feature: True}))
      examples = (example[feature] for example in tfds.as_numpy(examples))
      fit = functools.partial(_fit, image_shape=tuple(image_shape), crop=crop)
      try:
        for row, image in enumerate(images.parallel_map(fit, examples)):
          array[row] = image
      except tf.errors.OpError as error:
        raise InputError(f"{split} in {builder.data_path} cannot be read: {error.message}") from None
    return {}, {}

  files = sorted((path.name, path.stat().length, path.stat().mtime)  # it can be in a bucket, too
                 for path in builder.data_path.iterdir() if path.is_file())
  identity = [str(builder.data_path), feature, crop, files]
  arrays, _ = cache.decoded_images(builder.info.full_name, identity, counts, image_shape, fill,
                                   cache_dir=cache_dir)
  return arrays


def _fit(image, image_shape, crop):
  if image.shape == image_shape and image.dtype == np.uint8 and not crop:
    return image
  if image.dtype == np.uint16:
    image = (image >> 8).astype(np.uint8)
  image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  if crop:
    image = images.centre_crop(image, crop, crop)
  return images.fit_image(image, image_shape)[0]

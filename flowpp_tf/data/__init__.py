"""Data sets by name."""

from flowpp_tf.core.errors import InputError, unknown_name
from flowpp_tf.core.renamed import renamed
from flowpp_tf.data import bundled, tfds
from flowpp_tf.data.arrays import load_npz
from flowpp_tf.data.dataset import SPLITS, ImageDataset, ReducedBits, describe
from flowpp_tf.data.folder import load_folder
from flowpp_tf.data.pipeline import DataPipeline, evaluation_batches, training_batches, weighted_batches
from flowpp_tf.data.random_crops import RandomCrops
from flowpp_tf.types import Path, Shape

__getattr__ = renamed(__name__, {"Batches": "DataPipeline", "Photographs": "RandomCrops"})

DATASETS = ("digits", "photos", *tfds.NAMES, "folder:PATH", "npz:PATH", "tfds:NAME")


def load_dataset(
  name: str,
  data_dir: Path | None = None,
  *,
  image_shape: Shape | None = None,
  levels: int | None = None,
  bits: int | None = None,
  splits_file: Path | None = None,
  max_bad_files: int = 0,
  cache_dir: Path | None = None,
  crops: bool = False,
  labels: bool = False,
) -> ImageDataset:
  """Load a data set by name.

  Args:
    name: one of `DATASETS`; PATH stands for a path, NAME for a name in TensorFlow Datasets.
    data_dir: folder of TensorFlow Datasets, or of the published files of imagenet32_old and imagenet64_old; None for
      the default of TensorFlow Datasets.
    image_shape: `(H, W, C)` of the model; images of a folder are cropped and resized to it.
    levels: number of pixel values of the model; with `bits` it must be `2**bits`.
    bits: 1 to 8, how many upper bits of 8-bit images to keep; None to keep the images as they are.
    splits_file: for a folder, see folder.py.
    max_bad_files: for a folder, the maximum number of unreadable files to skip.
    crops: for photos and folders, whether to train on random crops of images larger than the model's, rather than on a
      grid of patches or on whole images made smaller.
    cache_dir: folder for decoded images, see cache.py; None for the user's cache folder.
    labels: whether to load the class of each image, too.

  Raises:
    InputError (a ValueError): if the name is unknown (it lists similar names), or the data or their labels are missing.
  """
  kind, colon, rest = name.partition(":")
  if kind != "folder" and (splits_file or max_bad_files):
    raise InputError(f"`splits_file` and `max_bad_files` are for folders; the data set is {name!r}")
  if crops and name != "photos" and kind != "folder":
    raise InputError(f"`crops` are for photos and folders; the data set is {name!r}")
  if labels and (crops or name == "photos"):
    raise InputError(f"data set {name!r} has no labels{' for crops' if crops else ''}")
  if bits is not None and levels is not None and levels != 2**bits:
    raise InputError(
      f"`bits` {bits} gives {2**bits} levels, the model's config has {levels}; give "
      f"--levels={2**bits}, or another --bits"
    )
  if image_shape is not None:
    image_shape = tuple(image_shape)
  if name == "digits":
    dataset = bundled.digits(labels)
  elif name == "photos":
    dataset = bundled.photos(crops)
  elif name in tfds.NAMES:
    dataset = tfds.load_named(name, data_dir, image_shape, cache_dir, labels)
  elif colon and kind in ("folder", "npz", "tfds") and not rest:
    wanted = "data set" if kind == "tfds" else "path"
    raise InputError(f"data set {name!r} must name a {wanted} after the colon")
  elif colon and kind == "folder":
    if image_shape is None:
      raise InputError("`image_shape` must say to which shape the images of a folder are resized")
    dataset = load_folder(rest, image_shape, splits_file, max_bad_files, cache_dir, crops, labels)
  elif colon and kind == "npz":
    dataset = load_npz(rest, 256 if bits is not None or levels is None else levels, labels)
  elif colon and kind == "tfds":
    dataset = tfds.load_any(rest, data_dir, image_shape, cache_dir, labels)
  else:
    raise unknown_name("dataset", name, DATASETS)
  return dataset if bits is None else dataset.reduce_bits(bits)

"""Data sets by name."""

import collections.abc
import inspect

from flowpp_tf.core.checks import INT32_MAX, MOST_LEVELS, check_arguments, check_count, check_shape_of_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import DATASETS, dataset_entry
from flowpp_tf.core.registry import register as _register
from flowpp_tf.core.registry import registered as _registered
from flowpp_tf.data.dataset import SPLITS, ImageDataset, describe
from flowpp_tf.data.gaussian_fields import GaussianFields
from flowpp_tf.data.pipeline import DataPipeline, evaluation_batches, training_batches, weighted_batches
from flowpp_tf.data.random_crops import RandomCrops
from flowpp_tf.data.source import ReducedBits
from flowpp_tf.types import Path, Shape

_NOT_TAKEN = {  # errors about options that a data set does not have
  "splits_file": "`splits_file` and `max_bad_files` are for folders; the data set is {!r}",
  "max_bad_files": "`splits_file` and `max_bad_files` are for folders; the data set is {!r}",
  "crops": "`crops` are for photos, elpv, sky16 and folders; the data set is {!r}",
  "labels": "data set {!r} has no labels",
  "real_valued": "data set {!r} has integer images, and the model takes real-valued ones",
}


@check_arguments
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
  neighbours: bool = False,
  real_valued: bool = False,
  download: bool = False,
) -> ImageDataset:
  """Load a data set by name.

  Args:
    name: one of `DATASETS`; PATH stands for a path, NAME for a name in TensorFlow Datasets.
    data_dir: folder of TensorFlow Datasets, or of the published files of cifar10, cifar100, mnist, fashion_mnist,
      imagenet32_old and imagenet64_old; None for the default of TensorFlow Datasets, and for the place of Debian's
      packages.
    image_shape: `(H, W, C)` of the model; images of a folder are cropped and resized to it.
    levels: number of pixel values of the model; with `bits` it must be `2**bits`.
    bits: 1 to 8, how many upper bits of 8-bit images to keep; None to keep the images as they are.
    splits_file: for a folder, see folder.py.
    max_bad_files: for a folder, the maximum number of unreadable files to skip.
    crops: for photos, elpv, sky16 and folders, whether to train on random crops of images larger than the model's,
      rather than on a grid of patches or on whole images made smaller.
    cache_dir: folder for decoded images, see cache.py; None for the user's cache folder.
    labels: whether to load the class of each image, too.
    neighbours: with `crops`, whether they are tiles that come with the context of their neighbours, for a model with
      `tile_neighbours`.
    real_valued: whether the model takes real-valued images, `dequantization` "none": npz:PATH and random_field.
    download: whether TensorFlow Datasets may download a set of its own that is missing.

  Raises:
    InputError (a ValueError): if the name is unknown (it lists similar names), or the data or their labels are missing.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> digits = load_dataset("digits", labels=True)
    >>> digits.train.shape, digits.levels, digits.num_classes
    ((1527, 8, 8, 1), 17, 10)
  """
  if image_shape is not None:
    check_shape_of_images("image_shape", image_shape)
  counts = (("levels", levels, 2, MOST_LEVELS), ("bits", bits, 1, 8), ("max_bad_files", max_bad_files, 0, INT32_MAX))
  for option, value, least, most in counts:
    if value is not None:
      check_count(option, value, least, most)
  if labels and crops:
    raise InputError(f"data set {name!r} has no labels for crops")
  if bits is not None and levels is not None and levels != 2**bits:
    raise InputError(f"`bits` {bits} gives {2**bits} levels, the model's config has {levels}; give --levels={2**bits}")
  options = dict(locals())
  load = _registered(DATASETS, dataset_entry(name))
  options |= {
    "path": name.partition(":")[2],
    "image_shape": None if image_shape is None else tuple(image_shape),
    "levels": levels if levels is not None and bits is None else 256,
  }
  taken = inspect.signature(load).parameters
  for option, message in _NOT_TAKEN.items():
    if options[option] and option not in taken:
      raise InputError(message.format(name))
  dataset = load(**{option: options[option] for option in taken})
  if not isinstance(dataset, ImageDataset):
    raise InputError(f"data set {name!r} must be an `ImageDataset`, got a `{type(dataset).__name__}`")
  dataset = dataset.with_neighbours() if neighbours else dataset
  return dataset if bits is None else dataset.reduce_bits(bits)


@check_arguments
def register_dataset(name: str, function: collections.abc.Callable[..., ImageDataset]) -> None:
  """Give a data set a name, for `load_dataset`; programs import a module that calls this by --import=MODULE.

  Args:
    name: for `load_dataset` and --dataset.
    function: returns the `ImageDataset`; its parameters are those options of `load_dataset` that the data set has.

  Raises:
    InputError (a ValueError): if a data set of that name exists, or the function has other parameters.

  Examples:
    >>> from flowpp_tf.data import ImageDataset, load_dataset, register_dataset
    >>> images = np.random.RandomState(0).randint(0, 2, [12, 8, 8, 1]).astype(np.uint8)
    >>> register_dataset("noise", lambda: ImageDataset("noise", 2, images[:8], images[8:10], images[10:]))
    >>> load_dataset("noise").train.shape
    (8, 8, 8, 1)
  """
  options = inspect.signature(load_dataset).parameters
  try:
    parameters = inspect.signature(function).parameters
  except ValueError:  # some builtins have no signature
    raise InputError(f"`function` must have a signature, got {function!r}") from None
  if others := [option for option in parameters if option not in options]:
    raise InputError(f"`function` must have parameters of {', '.join(options)}, got {', '.join(others)}")
  _register("data set", DATASETS, name, function)

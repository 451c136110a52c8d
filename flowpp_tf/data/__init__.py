"""Data sets by name."""

from flowpp_tf.data import bundled
from flowpp_tf.data import tfds
from flowpp_tf.data.arrays import load_npz
from flowpp_tf.data.dataset import SPLITS
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.dataset import ReducedBits
from flowpp_tf.data.dataset import describe
from flowpp_tf.data.folder import load_folder
from flowpp_tf.data.pipeline import evaluation_batches
from flowpp_tf.data.pipeline import training_batches
from flowpp_tf.data.pipeline import weighted_batches
from flowpp_tf.errors import InputError
from flowpp_tf.errors import unknown_name

_BUNDLED = {"digits": bundled.digits, "photos": bundled.photos}
DATASETS = (*_BUNDLED, *tfds.NAMES, "folder:PATH", "npz:PATH", "tfds:NAME")


def load_dataset(name, data_dir=None, *, image_shape=None, levels=None, bits=None, splits_file=None,
                 max_bad_files=0, cache_dir=None):
  """The data set of a name.

  Args:
    name: one of `DATASETS`, with a path or a name of TensorFlow Datasets where they say so.
    data_dir: where TensorFlow Datasets has its data, or folder of the published files of
      imagenet32_old and imagenet64_old; None for the default of TensorFlow Datasets.
    image_shape: `(H, W, C)` of the model, to which images of a folder are resized.
    levels: number of pixel values of the model; with `bits` it must be `2**bits`.
    bits: 1 to 8, to keep so many bits of 8-bit images; None for the images as they are.
    splits_file: for a folder, see folder.py.
    max_bad_files: for a folder, how many files that cannot be read are skipped.
    cache_dir: where decoded images are kept, see cache.py; None for the user's cache folder.

  Raises:
    InputError (a ValueError): if there is none, naming those that come close, or it is not there.
  """
  kind, colon, rest = name.partition(":")
  if kind != "folder" and (splits_file or max_bad_files):
    raise InputError("`splits_file` and `max_bad_files` are for folders; the data set is "
                     f"{name!r}")
  if bits is not None and levels is not None and levels != 2**bits:
    raise InputError(f"`bits` {bits} gives {2**bits} levels, the model's config has {levels}; give "
                     f"--levels={2**bits}, or another --bits")
  if image_shape is not None:
    image_shape = tuple(image_shape)
  if name in _BUNDLED:
    dataset = _BUNDLED[name]()
  elif name in tfds.NAMES:
    dataset = tfds.load_named(name, data_dir, image_shape, cache_dir)
  elif colon and kind in ("folder", "npz", "tfds") and not rest:
    raise InputError(f"data set {name!r} must name a {'data set' if kind == 'tfds' else 'path'} after "
                     "the colon")
  elif colon and kind == "folder":
    if image_shape is None:
      raise InputError("`image_shape` must say to which shape the images of a folder are resized")
    dataset = load_folder(rest, image_shape, splits_file, max_bad_files, cache_dir)
  elif colon and kind == "npz":
    dataset = load_npz(rest, 256 if bits is not None or levels is None else levels)
  elif colon and kind == "tfds":
    dataset = tfds.load_any(rest, data_dir, image_shape, cache_dir)
  else:
    raise unknown_name("dataset", name, DATASETS)
  return dataset if bits is None else dataset.reduce_bits(bits)

"""Data sets by name."""

from flowpp_tf.data import bundled
from flowpp_tf.data import tfds
from flowpp_tf.data.dataset import SPLITS
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.pipeline import evaluation_batches
from flowpp_tf.data.pipeline import training_batches
from flowpp_tf.errors import unknown_name

_BUNDLED = {"digits": bundled.digits, "photos": bundled.photos}
_TFDS = {"cifar10": tfds.cifar10}
DATASETS = (*_BUNDLED, *_TFDS)


def load_dataset(name, data_dir=None):
  """The data set of a name.

  Args:
    name: one of `DATASETS`.
    data_dir: where TensorFlow Datasets has its data; None for its default.

  Raises:
    InputError (a ValueError): if there is none, naming those that come close, or it is not there.
  """
  if name in _BUNDLED:
    return _BUNDLED[name]()
  if name in _TFDS:
    return _TFDS[name](data_dir)
  raise unknown_name("dataset", name, DATASETS)

"""The flags that say which images a program reads, and how a run keeps them in its config.json."""

import dataclasses
import os

from absl import flags

from flowpp_tf.data import DATASETS
from flowpp_tf.data import describe
from flowpp_tf.data import load_dataset
from flowpp_tf.errors import InputError
from flowpp_tf.programs import run

FLAGS = flags.FLAGS
_SETTINGS = ("data_dir", "cache_dir", "bits", "splits_file", "max_bad_files")


def define_data_flags(default):
  """The flags; `default` says what holds for those that are not given."""
  flags.DEFINE_string("dataset", None, f"Data set, one of {', '.join(DATASETS)}; {default} if not "
                                       "given.")
  flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets has its data, or folder of the "
                      "published files of imagenet32_old and imagenet64_old.")
  flags.DEFINE_string("cache_dir", None, "Where decoded images of large data sets are kept; "
                      "~/.cache/flowpp_tf if not given.")
  flags.DEFINE_integer("bits", None, "Bits of 8-bit images to keep, x // 2**(8 - bits), for a model of "
                       "2**bits levels; images as they are if not given.", lower_bound=1, upper_bound=8)
  flags.DEFINE_string("splits_file", None, "For a folder: JSON or lines of split and file name; by a "
                      "hash of the file name if not given.")
  flags.DEFINE_integer("max_bad_files", None, "For a folder: how many files that cannot be read are "
                       "skipped, 0 if not given.", lower_bound=0)


def with_image_size(config):
  """`config` with the height and width of --image_size, if given."""
  size = FLAGS.image_size
  if size is None:
    return config
  if FLAGS.image_shape is not None and config.image_shape[:2] != (size, size):
    raise InputError(f"--image_size={size} and --image_shape={','.join(FLAGS.image_shape)} say two "
                     "things; give one of them")
  return dataclasses.replace(config, image_shape=(size, size, config.image_shape[2]))


def data_settings(default, recorded=None):
  """What determines the data, for the config.json of a run and for `load_from_settings`.

  Args:
    default: name of the data set if the flags have none.
    recorded: the settings of a run, which hold where the flags say nothing.
  """
  recorded = dict(recorded or {})
  if FLAGS.dataset and recorded:  # what goes with the run's own folder
    recorded.update(splits_file=None, max_bad_files=None)
  settings = {name: recorded.get(name) if FLAGS[name].value is None else FLAGS[name].value
              for name in _SETTINGS}
  name = FLAGS.dataset or default
  kind, _, path = name.partition(":")
  if kind in ("folder", "npz") and path:  # to be found from everywhere
    name = f"{kind}:{os.path.abspath(os.path.expanduser(path))}"
  for place in ("data_dir", "cache_dir", "splits_file"):
    if settings[place] and "://" not in settings[place]:
      settings[place] = os.path.abspath(os.path.expanduser(settings[place]))
  return {"dataset": name, **settings}


def load_from_settings(settings, config):
  """The data set, checked against a model's config."""
  dataset = load_dataset(
      settings["dataset"], settings.get("data_dir"), image_shape=config.image_shape,
      levels=config.levels, bits=settings.get("bits"), splits_file=settings.get("splits_file"),
      max_bad_files=settings.get("max_bad_files") or 0, cache_dir=settings.get("cache_dir"))
  dataset.check(config)
  return dataset


def load_data_of_run(settings, config):
  """The data of a run, or those that the flags name; a warning if they are not those of its training.

  Args:
    settings: of the run, as in its config.json.
    config: `FlowPlusPlusConfig` of its model.

  Returns:
    `ImageDataset` and its fingerprint.
  """
  dataset = load_from_settings(data_settings(settings["dataset"], settings), config)
  fingerprint, trained = dataset.fingerprint(), settings.get("fingerprint")
  if trained and trained["sha256"] != fingerprint["sha256"]:
    run.warn(f"the model was trained on {describe(trained)}; this is {describe(fingerprint)}")
  return dataset, fingerprint

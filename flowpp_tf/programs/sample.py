"""Make pictures with a trained model. The flags are in sample_flags.py."""

import functools
import hashlib
import os
import pathlib

from absl import flags
import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import BatchedModel, write_animation
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, process, run, sample_grids
from flowpp_tf.programs.named_images import named_images
from flowpp_tf.programs.sample_flags import (
  animated_from_flags,
  kind_from_flags,
  labels_from_flags,
  picture_size_from_flags,
  temperatures_from_flags,
)
from flowpp_tf.training import Workers

FLAGS = flags.FLAGS
_LONGEST_NAME, _BEGINNING = 255, 100  # bytes


def sample_from_flags() -> None:
  """Write the picture, and the array if --npy is given."""
  given, temperatures, seed = flag_kinds.given_from_flags(), temperatures_from_flags(), FLAGS.seed
  animated, kind, labels = animated_from_flags(), kind_from_flags(), labels_from_flags()
  workdir, workers = model_flags.workdir_from_flags(), Workers(device_flags.strategy_from_flags())
  with workers.scope():
    model, settings = model_flags.load_from_flags(workdir)
  config, n = model.config, FLAGS.n
  kind = _kind_of_model_from_flags(kind, config, temperatures, labels)
  batched = BatchedModel(model, FLAGS.batch_size, labels[0] if labels else None, FLAGS.guidance)
  load_data = functools.cache(lambda: data_flags.load_data_of_run(settings, config, given)[0])
  read = lambda names, limit: named_images(names, config, load_data, limit)
  frames = FLAGS.frames or (30 if animated else 12)
  process.phase("computing the images")
  picture = {
    "interpolate": lambda names: sample_grids.interpolation(batched, read(names, 2), names, frames, seed),
    "reconstruct": lambda names: sample_grids.reconstruction(batched, read(names, n or 16), names, seed),
    "neighbours": lambda k: sample_grids.neighbours(batched, load_data(), k, n or 10, temperatures[0], seed),
    "sweep": lambda _: sample_grids.sweep(batched, n or 10, temperatures, seed),
    "by_class": lambda _: sample_grids.by_class(
      batched, labels or list(range(config.num_classes)), n or 10, temperatures[0], seed
    ),
    "whole_pictures": lambda _: sample_grids.whole_pictures(
      batched, n or 4, picture_size_from_flags(), temperatures[0], seed
    ),
    "samples": lambda _: sample_grids.samples(batched, n or 64, temperatures[0], seed),
  }[kind](given.get(kind))
  guidance = f"_g{FLAGS.guidance}" if FLAGS.guidance else ""
  ending = f"{guidance}_s{seed}.{'gif' if animated else 'png'}"
  output = pathlib.Path(FLAGS.output or workdir.path / _file_name(picture.name, ending))
  if not workers.chief:
    return
  if animated:
    run.write_file(output, lambda path: write_animation(picture.images, config.levels, path))
  else:
    run.write_file(output, picture.grid.save)
  if FLAGS.npy:
    run.write_file(FLAGS.npy, lambda path: _save(path, picture.images))


def _kind_of_model_from_flags(kind, config, temperatures, labels):
  """Return the kind of picture; raise an `InputError` if the model does not have what the flags ask for."""
  if labels and not config.num_classes:
    raise InputError("--labels are for a model with classes, and this one has none")
  if FLAGS.picture_size and not config.tile_neighbours:
    raise InputError(f"--picture_size is for a model with tile_neighbours; this one draws {config.image_shape}")
  if config.tile_neighbours:
    if kind != "samples" or len(temperatures) > 1 or FLAGS.guidance:
      raise InputError(
        "a model whose tiles see their neighbours draws samples at one --temperature, without --guidance"
      )
    kind = "whole_pictures"
  if kind == "samples":
    kind = "sweep" if len(temperatures) > 1 else "by_class" if config.num_classes else kind
  if config.pixel_levels is None and kind not in ("samples", "sweep", "by_class"):
    raise InputError(f"--{kind} is for integer images, and the model's are real-valued")
  if len(labels) > 1 and kind != "by_class":
    raise InputError(f"--labels must be one label for this kind of picture, got {','.join(FLAGS.labels)}")
  return kind


def _file_name(name, ending):
  """A name with an ending; of one that no file can have, such as of 100 labels, the beginning and a digest of all."""
  data = os.fsencode(name)
  if len(data) + len(ending) > _LONGEST_NAME:
    name = f"{data[:_BEGINNING].decode(errors='ignore')}_{hashlib.sha256(data).hexdigest()[:12]}"
  return name + ending


def _save(path, array):
  with open(path, "wb") as file:  # np.save would append .npy to a path
    np.save(file, array)

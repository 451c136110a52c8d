"""Scores single images under a trained model, as a CSV.

bin/score --workdir=runs/digits --images=my_images --output=scores.csv

A row for each image, with the columns
  image                 name of the file below the folder, or index in the split
  log_likelihood        importance-weighted bound of --num_samples draws, nats
  bits_per_dim          -log_likelihood / (H W C ln 2)
  typicality            |bits_per_dim - its mean over the validation split of the run|, bits/dim;
                        higher is stranger
  complexity_corrected  bits_per_dim - 8 png_bytes / (H W C), bits/dim; higher is stranger
  png_bytes             bytes of the pixels in PNG, without the 63 that every PNG has
  error                 why a file cannot be read; the others are empty then

Likelihood alone does not tell images like those of training from others: simple ones are likely,
wherever they come from. docs/scoring.md says what each score can and cannot do.
"""

import contextlib
import csv
import functools
import io
import itertools
import os
import sys

from absl import flags
import keras
import numpy as np

from flowpp_tf.data import SPLITS
from flowpp_tf.data import folder as image_folder
from flowpp_tf.data import images as image_files
from flowpp_tf.evaluation import SCORES
from flowpp_tf.evaluation import Scorer
from flowpp_tf.evaluation import load_typical
from flowpp_tf.evaluation import measure_typical
from flowpp_tf.files import file_sha256
from flowpp_tf.programs import data_flags
from flowpp_tf.programs import run
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS


def define_flags():
  """The program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
  flags.DEFINE_string("images", None, "Folder of PNG, JPEG or WebP files to score, with those below it; "
                      "a split of --dataset if not given.")
  flags.DEFINE_string("split", "test", f"One of {', '.join(SPLITS)}, of --dataset.")
  data_flags.define_data_flags(default="that of the run")
  flags.DEFINE_integer("limit", None, "First so many images; all if not given.", lower_bound=1)
  flags.DEFINE_string("output", None, "CSV file; standard output if not given.")
  flags.DEFINE_integer("num_samples", 16, "Samples of the importance-weighted bound.", lower_bound=1)
  flags.DEFINE_integer("batch_size", 100, "Images at once.", lower_bound=1)
  flags.DEFINE_integer("typical_images", 1000, "Images of the run's validation split that typicality is "
                       "measured by, spread over it; all if it has fewer.", lower_bound=2)
  flags.DEFINE_integer("seed", 0, "Seed of the dequantization noise, the same draws for all images.")


def score_from_flags():
  """Writes the CSV; what else there is to say goes to stderr."""
  if FLAGS.images is not None and (FLAGS.dataset or FLAGS["split"].present):
    raise run.InputError("--images is a folder, --dataset and --split say other images; give one of "
                         "them")
  if FLAGS.output is not None:
    run.check_can_be_written(FLAGS.output)
  workdir = Workdir(FLAGS.workdir)
  model, settings = workdir.load()
  own_data = functools.cache(lambda: (
      data_flags.load_from_settings(settings, model.config) if FLAGS.dataset else
      data_flags.load_data_of_run(settings, model.config)[0]))
  if FLAGS.images is not None:
    count, batches = _folder_batches(model.config)
  else:
    dataset = own_data() if not FLAGS.dataset else data_flags.load_from_settings(
        data_flags.data_settings(FLAGS.dataset, settings), model.config)
    count, batches = _array_batches(dataset.split(FLAGS.split)[:FLAGS.limit])
  scorer = Scorer(model, FLAGS.num_samples, FLAGS.seed)
  scorer.typical = _typical_mean(workdir, scorer, settings, own_data)

  rows = []
  progress = _progress(count)
  for names, images, errors in batches:
    scores = iter(_texts(scorer, images) if images else ())
    rows += [{"image": name, **({"error": error} if error else next(scores))}
             for name, error in zip(names, errors, strict=True)]
    progress(len(names))
  for row in rows:
    if "error" in row:
      run.warn(f"cannot be read: {row['image']} ({row['error']})")
  _write(rows)


def _texts(scorer, images):
  """The scores of each image as a `dict` of text."""
  formats = {"log_likelihood": ".4f", "png_bytes": "d"}
  scores = scorer(np.stack(images), FLAGS.batch_size)
  if scorer.typical is None:
    del scores["typicality"]
  for values in zip(*scores.values(), strict=True):
    yield {name: format(value, formats.get(name, ".6f"))
           for name, value in zip(scores, values, strict=True)}


def _folder_batches(config):
  """The number of files of --images, and batches: names, images, for each name an error or None."""
  image_files.check_channels(config.image_shape)
  folder, names = image_folder.open_folder(FLAGS.images)
  names = names[:FLAGS.limit]
  height, width, _ = config.image_shape

  def read(name):
    try:
      return (image_files.read_for_model(folder / name, config),
              image_files.upright_size(folder / name), None)
    except Exception as error:  # pylint: disable=broad-except  # Pillow has many for damaged files
      return None, None, image_files.reason(error)

  def batches():
    # A name that is no UTF-8 shows its bytes: a CSV that is none could not be read by much.
    shown = (os.fsencode(name).decode("utf-8", "backslashreplace") for name in names)
    results = zip(shown, image_files.parallel_map(read, names), strict=True)
    all_sizes = []
    while batch := list(itertools.islice(results, FLAGS.batch_size)):
      images, sizes, errors = zip(*(result for _, result in batch))
      all_sizes += filter(None, sizes)
      yield [name for name, _ in batch], [image for image in images if image is not None], errors
    resized = sum(size != (width, height) for size in all_sizes)
    enlarged = sum(size[0] < width or size[1] < height for size in all_sizes)
    if resized:
      run.warn(f"{resized} of {len(all_sizes)} images had to be cropped or resized to {width}x{height}"
               + (f", {enlarged} of them enlarged, which makes their bits/dim low" if enlarged else ""))

  return len(names), batches()


def _array_batches(images):
  """The same of an array, whose names are indices."""
  batches = (images[i:i + FLAGS.batch_size] for i in range(0, len(images), FLAGS.batch_size))
  indices = itertools.count()
  return len(images), (
      (list(itertools.islice(indices, len(batch))), list(batch), [None] * len(batch))
      for batch in batches)


def _typical_mean(workdir, scorer, settings, own_data):
  """Mean bits/dim of the run's validation split, measured now unless it is known; None without it."""
  key = typical_key(workdir, settings, FLAGS.num_samples, FLAGS.seed, FLAGS.typical_images)
  typical = load_typical(workdir.typicality, key)
  if typical is None:
    try:
      dataset = own_data()
    except run.InputError as error:
      run.warn(f"no typicality, as the validation split of the run is not at hand: {error}")
      return None
    key["data"] = dataset.fingerprint()["digest"]
    progress = _progress(min(len(dataset.validation), FLAGS.typical_images))
    typical = measure_typical(
        scorer, dataset.validation, FLAGS.typical_images, FLAGS.batch_size, progress)
    try:
      typical.save(workdir.typicality, key)
    except OSError as error:
      run.warn(f"{str(workdir.typicality)!r} cannot be written, so that it will be measured again: "
               f"{error.strerror}")
  spread = "" if typical.std is None else f", standard deviation {typical.std:.4f}"
  print(f"typical of the run: mean {typical.mean:.4f}{spread} bits/dim over {typical.images} images of "
        "its validation split", file=sys.stderr)
  return typical.mean


def typical_key(workdir, settings, num_samples=16, seed=0, typical_images=1000):
  """What the typicality of a run depends on, for `load_typical`; by default as if no flag was given."""
  return {"weights": file_sha256(workdir.best_weights), "num_samples": num_samples, "seed": seed,
          "typical_images": typical_images, "data": settings.get("fingerprint", {}).get("digest")}


def _progress(count):
  """A function to call with the number of images done: it draws a bar if stderr is a terminal."""
  if not sys.stderr.isatty():
    return lambda done: None
  with contextlib.redirect_stdout(sys.stderr):  # where Keras would draw it is the CSV
    bar = keras.utils.Progbar(count, unit_name="image")

  def add(done):
    with contextlib.redirect_stdout(sys.stderr):
      bar.add(done)
  return add


def _write(rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, ["image", *SCORES, "error"], restval="", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  if FLAGS.output is None:
    print(text.getvalue(), end="")
    return
  run.write_file(FLAGS.output, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))


def main():
  """Entry point of `flowpp-score` and `bin/score`."""
  define_flags()
  run.run_program(score_from_flags)

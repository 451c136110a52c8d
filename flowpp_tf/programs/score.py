"""Score single images under a trained model and write a CSV. The flags are in score_flags.py."""

import collections
import csv
import functools
import io
import itertools
import os
import pathlib
import sys

from absl import flags
import tqdm

from flowpp_tf.core.errors import InputError
from flowpp_tf.data import images as image_files
from flowpp_tf.data.arrays import load_array
from flowpp_tf.evaluation import BitMaps, Scorer, load_typical, measure_typical
from flowpp_tf.io.image_file import ImageFileError
from flowpp_tf.io.image_folder import is_array_file, open_folder
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, process, run
from flowpp_tf.programs.score_measure import Measure
from flowpp_tf.training import Workdir, Workers

FLAGS = flags.FLAGS
_CHUNK = 1024  # images


def score_from_flags() -> None:
  """Write the CSV; everything else is printed on stderr."""
  given, batch_size = flag_kinds.given_from_flags(), FLAGS.batch_size
  workdir, workers = model_flags.workdir_from_flags(), Workers(device_flags.strategy_from_flags())
  with workers.scope():
    model, settings = model_flags.load_from_flags(workdir)
  own_data = functools.cache(
    lambda: (
      data_flags.load_from_settings(settings, model.config)
      if FLAGS.dataset
      else data_flags.load_data_of_run(settings, model.config, given)[0]
    )
  )
  if FLAGS.images is not None:
    count, items = _read_images(model.config, FLAGS.images, FLAGS.tiles, FLAGS.limit)
  else:
    dataset = data_flags.load_given_data(settings, model.config, given) if FLAGS.dataset else own_data()
    count, items = _of_array(dataset.split(FLAGS.split), FLAGS.limit)
  if model.config.tile_neighbours and not (FLAGS.tiles and FLAGS.images is not None):
    raise InputError("a model whose tiles see their neighbours scores whole pictures: give --images and --tiles")
  maps = BitMaps(model, FLAGS.num_samples, FLAGS.seed) if FLAGS.tiles or FLAGS.maps else None
  scorer = Scorer(model, FLAGS.num_samples, FLAGS.seed)
  key = typical_key(workdir, settings, FLAGS.num_samples, FLAGS.seed, FLAGS.typical_images)
  if model.config.tile_neighbours:
    run.warn("no typicality, as a validation split has tiles, and the scores of this model are those of whole pictures")
  else:
    scorer.typical = _typical_mean(workdir, workers, scorer, key, own_data, batch_size)
  measure = Measure(scorer, batch_size, maps, pathlib.Path(FLAGS.maps) if FLAGS.maps and workers.chief else None)
  if FLAGS.calibrate is not None:
    sound, sound_items = _read_images(model.config, FLAGS.calibrate, FLAGS.tiles)
    process.phase(f"scoring {sound:,} sound images")
    measure.calibrate(sound_items)

  rows = []
  process.phase(f"scoring {count:,} images")
  with tqdm.tqdm(total=count, unit="image", disable=None) as bar:
    while batch := list(itertools.islice(items, batch_size)):
      readable = [(name, image) for name, image, _ in batch if image is not None]
      scores = iter(measure.texts(*zip(*readable, strict=True)) if readable else ())
      rows += [{"image": name, **({"error": error} if error else next(scores))} for name, _, error in batch]
      bar.update(len(batch))
  if not workers.chief:
    return
  for row in rows:
    if "error" in row:
      run.warn(f"cannot be read: {row['image']} ({row['error']})")
  if measure.seen:
    run.warn(
      f"{measure.seen} of {count} images are among those of --calibrate too, so that their p-values are too high"
    )
  _write(rows, FLAGS.output, [*scorer.names, *([] if FLAGS.calibrate is None else ["p_value"])])
  _summarize([row for row in rows if "error" not in row])


def _summarize(rows):
  """Print mean, least and most of each score on stderr."""
  if rows:
    print(f"{len(rows):>8,} images{'mean':>15}{'least':>10}{'most':>10}", file=sys.stderr)
  for name in ("nats_per_dim", "bits_per_dim", "typicality", "complexity_corrected", "p_value"):
    if values := [float(row[name]) for row in rows if name in row]:
      figures = (sum(values) / len(values), min(values), max(values))
      print(f"  {name:<20}{''.join(f'{figure:>10.4f}' for figure in figures)}", file=sys.stderr)


def _read_images(config, path, tiles, limit=None):
  """Return how many images a folder, or a file of an array, has, and for each its name, the image, and an error."""
  if is_array_file(path):
    return _of_array(load_array(path, config.pixel_levels, None if tiles else config.image_shape), limit)
  image_files.check_channels(config.image_shape, config.pixel_levels)
  folder, names, kinds_left_out = open_folder(path, config.pixel_levels)
  if kinds_left_out:
    run.warn(f"{path}: {kinds_left_out}")
  names = names[:limit]
  return len(names), _read_files(config, folder, names, tiles)


def _of_array(images, limit):
  """Return how many images there are, up to a limit, and for each its index, the image and None; read in chunks."""
  count = min(len(images), limit or len(images))
  chunks = (images[first : min(first + _CHUNK, count)] for first in range(0, count, _CHUNK))
  return count, zip(map(str, itertools.count()), itertools.chain.from_iterable(chunks), itertools.repeat(None))


def _read_files(config, folder, names, tiles):
  """Yield for each file its name, and its image and None, or None and an error."""
  height, width, _ = config.image_shape

  def read(name):
    parts = image_files.parts_left_out(folder / name, config.pixel_levels)
    try:
      if tiles:
        return image_files.read_whole_for_model(folder / name, config), (width, height), parts, None
      size = image_files.upright_size(folder / name, config.image_shape[2], config.pixel_levels)
      return image_files.read_for_model(folder / name, config), size, parts, None
    except ImageFileError as error:
      return None, None, parts, error.reason

  sizes, counts = [], collections.Counter[str]()
  for name, (image, size, parts, error) in zip(names, image_files.parallel_map(read, names), strict=True):
    sizes += [size] if size else []
    counts.update(parts)
    # Bytes that are not UTF-8 are escaped: few programs can read a CSV that is not UTF-8.
    yield os.fsencode(name).decode("utf-8", "backslashreplace"), image, error
  resized = sum(size != (width, height) for size in sizes)
  enlarged = sum(size[0] < width or size[1] < height for size in sizes)
  if resized:
    run.warn(
      f"{resized} of {len(sizes)} images had to be cropped or resized to {width}x{height}"
      + (f", {enlarged} of them enlarged, which makes their bits/dim low" if enlarged else "")
    )
  for parts, number in counts.items():
    run.warn(f"{number} of {len(names)} files have {parts}")


def _typical_mean(workdir, workers, scorer, key, own_data, batch_size):
  """Return the mean bits/dim of the run's validation split, measured unless known; None without the data."""

  def known(key):
    found = load_typical(workdir.typicality, key)
    return None if workers.any(found is None)[0] else found  # all workers measure it, or none

  typical = known(key)
  if typical is None:
    try:
      dataset = own_data()
    except InputError as error:
      run.warn(f"no typicality, as the validation split of the run is not available: {error}")
      return None
    key = key | {"data": dataset.fingerprint()["digest"]}
    typical = known(key)  # measured before, of data that are not those of training
  if typical is None:
    process.phase("measuring the validation split of the run, for the typicality")
    with tqdm.tqdm(total=min(len(dataset.validation), key["typical_images"]), unit="image", disable=None) as bar:
      typical = measure_typical(scorer, dataset.validation, key["typical_images"], batch_size, bar.update)
    try:
      if workers.chief:
        typical.save(workdir.typicality, key)
    except OSError as error:
      run.warn(f"{str(workdir.typicality)!r} cannot be written, so it will be measured again: {error.strerror}")
  spread = "" if typical.std is None else f", standard deviation {typical.std:.4f}"
  print(
    f"typical of the run: mean {typical.mean:.4f}{spread} bits/dim over {typical.images} images of "
    "its validation split",
    file=sys.stderr,
  )
  return typical.mean


def typical_key(
  workdir: Workdir, settings: dict, num_samples: int = 16, seed: int = 0, typical_images: int = 1000
) -> dict:
  """Return what the typicality of a run depends on, for `load_typical`; the defaults are those of the flags."""
  return {
    "weights": workdir.weights_info()["sha256"],
    "num_samples": num_samples,
    "seed": seed,
    "typical_images": typical_images,
    "data": settings.get("fingerprint", {}).get("digest"),
  }


def _write(rows, output, names):
  text = io.StringIO()
  writer = csv.DictWriter(text, ["image", *names, "error"], restval="", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  if output is None:
    print(text.getvalue(), end="")
  else:
    run.write_file(output, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))

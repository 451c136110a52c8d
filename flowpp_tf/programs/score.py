"""Score single images under a trained model and write a CSV.

bin/score --workdir=runs/digits --images=my_images --output=scores.csv

One row per image, with the columns
  image                 name of the file below the folder, or index in the split or the array
  log_likelihood        importance-weighted bound of --num_samples samples, nats
  bits_per_dim          -log_likelihood / (H W C ln 2)
  typicality            |bits_per_dim - its mean over the validation split of the run|, bits/dim;
                        higher is more anomalous
  nats_per_dim          log_likelihood / (H W C), for real-valued images, whose density is exact
  complexity_corrected  bits_per_dim - 8 png_bytes / (H W C), bits/dim; higher is more anomalous
  png_bytes             bytes of the pixels in PNG, without the 63 that every PNG has; it and complexity_corrected
                        are for integer images only
  p_value               with --calibrate: two-sided p-value of the hypothesis that the image is like the sound
                        images, by its bits_per_dim; at most a share p of sound images has a p_value of at most p
  error                 why a file cannot be read; the other columns are then empty

The likelihood does not separate images like the training images from others: simple images are likely, regardless of
where they come from. docs/scoring.md explains what each score can and cannot do.
"""

import collections
from collections.abc import Iterator
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from flowpp_tf.core.checks import MOST_LEVELS
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import Rule, at_least, one_of, setting
from flowpp_tf.io.files import writing
from flowpp_tf.io.image_folder import is_array_file, open_folder
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import DeviceOptions, PrecisionOptions, load_on_devices
from flowpp_tf.programs.options import SEED

if TYPE_CHECKING:
  from flowpp_tf.evaluation import BitMaps, Scorer
  from flowpp_tf.training import Workdir

_FORMATS = {"log_likelihood": ".4f", "png_bytes": "d"}
# Bits per value from black to pale yellow, relative to the mean: a normal distribution has 0.7 bits less at its centre,
# and 5.8 bits more at three standard deviations.
_REAL_RANGE = -1.0, 6.0


@dataclasses.dataclass(frozen=True)
class ScoreOptions(DeviceOptions, DataOptions, PrecisionOptions):
  """Options of bin/score."""

  RULES = (
    Rule("images", lambda options: not options.dataset and not options.split, "left out with --dataset or --split"),
    Rule("tiles", lambda options: options.images is not None, "left out without --images"),
    Rule("maps", lambda options: not outputs.are_one(options.maps, options.output), "another name than --output"),
  )

  images: str | None = setting(
    None,
    "Folder of PNG, JPEG or WebP files to score, searched recursively, or an .npy or .npz file of one array of images; "
    "a split of --dataset if not given. Models of more than 256 levels and of real-valued images read files of TIFF, "
    "NumPy and FITS too.",
  )
  split: str | None = setting(None, "Split of --dataset. (default: test)", one_of(*SPLITS))
  limit: int | None = setting(None, "Number of images, from the start; all if not given.", at_least(1))
  output: str | None = setting(None, "CSV file; standard output if not given.")
  tiles: bool = setting(
    False,
    "Score images in their original size, cut into tiles of the model's size as in archives; else they are cropped and "
    "resized to the model's size.",
  )
  maps: str | None = setting(
    None,
    "New folder for a PNG heat map of each image: bits of each pixel, which add up to the image's bound. Black is 0 "
    "and below, pale yellow is twice the mean of typical images. For real-valued images, whose bits can be negative, "
    "black is 1 bit per value below that mean, and pale yellow 6 bits above it.",
  )
  calibrate: str | None = setting(
    None, "Folder or array of sound images that the model was not trained on, as --images; adds the column p_value."
  )
  num_samples: int = setting(16, "Samples of the importance-weighted bound.", at_least(1, 1 << 20))
  batch_size: int = setting(100, "Batch size.", at_least(1, 1 << 16))
  typical_images: int = setting(
    1000,
    "Number of the run's validation images for typicality, spread evenly over the split; all if it has fewer.",
    at_least(2),
  )
  seed: int = setting(0, "Seed of the dequantization noise, the same draws for all images.", SEED)


def run(options: ScoreOptions) -> None:
  """Write the CSV; print everything else on stderr."""
  process.phase(_plan(options))
  import_tensorflow()
  from flowpp_tf.evaluation import BitMaps, Scorer

  workdir, workers, model, settings = load_on_devices(options)
  config = model.config
  given_data = options.given_data
  run_data = {} if options.dataset else given_data
  load_run_data = functools.cache(lambda: data_options.load_data_of_run(settings, config, run_data))
  if options.images is not None:
    count, items = _read_images(config, options.images, options.tiles, options.limit)
  else:
    dataset = data_options.load_data_of_run(settings, config, given_data) if options.dataset else load_run_data()
    count, items = _from_array(dataset.split(options.split or "test"), options.limit)
  if config.tile_neighbours and not options.tiles:
    raise InputError("a model whose tiles see their neighbours scores whole pictures: give --images and --tiles")
  scorer = Scorer(model, options.num_samples, options.seed)
  if config.tile_neighbours:
    process.warn("no typicality, as a validation split has tiles, and this model scores whole pictures")
  else:
    key = typical_key(workdir, settings, options.num_samples, options.seed, options.typical_images)
    scorer.typical = _typical_mean(workdir, workers, scorer, key, load_run_data, options.batch_size)
  maps = BitMaps(model, options.num_samples, options.seed) if options.tiles or options.maps else None
  measure = _Measure(scorer, options.batch_size, maps)
  names = [*scorer.names]
  sound: list[dict] = []
  if options.calibrate is not None:
    sound_count, sound_items = _read_images(config, options.calibrate, options.tiles)
    process.phase(f"scoring {sound_count:,} sound images")
    sound = measure.rows(_all_readable(sound_items), sound_count)
  if options.maps and workers.chief:
    measure.folder = pathlib.Path(options.maps)
  process.phase(f"scoring {count:,} images")
  rows = measure.rows(items, count)
  if not workers.chief:
    return
  for row in rows:
    if "error" in row:
      process.warn(f"cannot be read: {row['image']} ({row['error']})")
  scored = [row for row in rows if "error" not in row]
  if options.calibrate is not None:
    names.append("p_value")
    _add_p_values(scored, sound)
  _write(rows, options.output, names)


def _plan(options):
  """Return a line on the work ahead; raise an `InputError` for files that cannot be read or written."""
  inputs = [path for path in (options.images, options.calibrate) if path is not None]
  for path in inputs:
    if not is_array_file(path):
      open_folder(path, MOST_LEVELS)
  if options.output is not None:
    outputs.check_can_be_written(options.output, outputs.SCORES, inputs + options.data_places())
  if options.maps is not None:
    outputs.check_is_new(options.maps)
  model, _ = options.find_model()
  images = f"the images of {options.images}" if options.images else options.split_in_words(options.split or "test")
  return f"scoring {images} with {model}, to {options.output or 'standard output'}"


@dataclasses.dataclass
class _Measure:
  """Scores images.

  Attributes:
    scorer: `Scorer` of images of the model's size.
    batch_size: batch size.
    maps: `BitMaps`, for pictures of any size; None for images of the model's size without maps.
    folder: folder for heat maps; None to write none.
  """

  scorer: "Scorer"
  batch_size: int
  maps: "BitMaps | None" = None
  folder: pathlib.Path | None = None

  def rows(self, items: Iterator[tuple], count: int) -> list[dict[str, Any]]:
    """Return a row for each `(name, image, error)`: the name with the image's scores and digest, or the error."""
    rows: list[dict[str, Any]] = []
    with tqdm.tqdm(total=count, unit="image", disable=None) as bar:
      while batch := list(itertools.islice(items, self.batch_size)):
        readable = [(name, image) for name, image, _ in batch if image is not None]
        scores = iter(self._scores(*zip(*readable, strict=True)) if readable else ())
        for name, image, error in batch:
          if error:
            rows.append({"image": name, "error": error})
          else:
            rows.append({"image": name, "digest": _digest(image), **next(scores)})
        bar.update(len(batch))
    return rows

  def _scores(self, names, images):
    """Return the scores of images by name, and write their maps."""
    from flowpp_tf.evaluation import scores_of

    if self.maps is None:
      scores = self.scorer(np.stack(images), self.batch_size)
      return [dict(zip(scores, values)) for values in zip(*scores.values(), strict=True)]
    rows = []
    for name, image, bits in zip(names, images, self.maps(images, self.batch_size), strict=True):
      if self.folder is not None:
        file = name if name.lower().endswith(".png") else f"{name}.png"
        self._write_map(self.folder / file, bits, image.shape[-1])
      log_likelihood = np.array([-bits.sum() * math.log(2)])
      scores = scores_of(image[np.newaxis], log_likelihood, self.scorer.typical, self.scorer.names)
      rows.append({score: values[0] for score, values in scores.items()})
    return rows

  def _write_map(self, path, bits, channels):
    """Write a heat map; all maps of a run have the same colours if the run's typical bits/dim are known."""
    from flowpp_tf.evaluation import REAL_SCORES, heat_map

    mean = float(bits.mean()) if self.scorer.typical is None else channels * self.scorer.typical
    if self.scorer.names == REAL_SCORES:  # the unit of the data shifts the bits of all values equally
      low, high = (mean + channels * offset for offset in _REAL_RANGE)
    else:
      low = 0.0
      high = 2 * mean if mean > 0 else None
    if path.exists():
      raise InputError(f"--maps: {str(path)!r} is the map of two images; rename one of them")
    picture = heat_map(bits, low, high)
    with writing(repr(str(path))):
      path.parent.mkdir(parents=True, exist_ok=True)
    outputs.replace(path, lambda file: picture.save(file, format="PNG"))


def _add_p_values(rows, sound):
  """Add p-values to rows of scores; warn of images that are also among the sound images."""
  from flowpp_tf.evaluation import conformal_p_value

  bits = np.array([row["bits_per_dim"] for row in rows])
  sound_bits = np.array([row["bits_per_dim"] for row in sound])
  for row, p_value in zip(rows, conformal_p_value(sound_bits, bits, two_sided=True), strict=True):
    row["p_value"] = p_value
  sound_digests = {row["digest"] for row in sound}
  if shared := sum(row["digest"] in sound_digests for row in rows):
    process.warn(f"{shared} of {len(rows)} images are among those of --calibrate too: their p-values are too high")


def _all_readable(items):
  """Yield sound images; raise an `InputError` if one cannot be read."""
  for name, image, error in items:
    if error:
      raise InputError(f"--calibrate: {name!r} cannot be read: {error}")
    yield name, image, error


def _read_images(config, path, tiles, limit=None):
  """Return the number of images in a folder or an array file, and an iterator of `(name, image, error)`."""
  from flowpp_tf.data import images as image_files
  from flowpp_tf.data.arrays import load_array

  if is_array_file(path):
    shape = None if tiles else config.image_shape
    return _from_array(load_array(path, config.pixel_levels, shape), limit)
  image_files.check_channels(config.image_shape, config.pixel_levels)
  folder, names, kinds_left_out = open_folder(path, config.pixel_levels)
  if kinds_left_out:
    process.warn(f"{path}: {kinds_left_out}")
  names = names[:limit]
  return len(names), _read_files(config, folder, names, tiles)


def _from_array(images, limit):
  """Return the number of images, up to a limit, and an iterator of `(index, image, None)`."""
  count = min(len(images), limit or len(images))
  return count, ((str(i), np.asarray(images[i]), None) for i in range(count))


def _read_files(config, folder, names, tiles):
  """Yield `(name, image, None)` for each file, or `(name, None, error)`."""
  from flowpp_tf.data import images as image_files
  from flowpp_tf.io.image_file import ImageFileError

  height, width, _ = config.image_shape

  def read(name):
    path = folder / name
    notes = [f"have {part}" for part in image_files.parts_left_out(path, config.pixel_levels)]
    try:
      if tiles:
        return image_files.read_whole_for_model(path, config), notes, None
      size = image_files.upright_size(path, config.image_shape[2], config.pixel_levels)
      image = image_files.read_for_model(path, config)
    except ImageFileError as error:
      return None, notes, error.reason
    if size != (width, height):
      notes.append(f"had to be cropped or resized to {width}x{height}")
    if size[0] < width or size[1] < height:
      notes.append("had to be enlarged, which makes their bits/dim low")
    return image, notes, None

  counts = collections.Counter[str]()
  for name, (image, notes, error) in zip(names, image_files.parallel_map(read, names), strict=True):
    counts.update(notes)
    # Bytes that are not UTF-8 are escaped: few programs can read a CSV that is not UTF-8.
    yield os.fsencode(name).decode("utf-8", "backslashreplace"), image, error
  for note, number in counts.items():
    process.warn(f"{number} of {len(names)} files {note}")


def _typical_mean(workdir, workers, scorer, key, load_run_data, batch_size):
  """Return the mean bits/dim of the run's validation split, measured unless it is known; None without the data."""
  from flowpp_tf.evaluation import load_typical, measure_typical

  typical = load_typical(workdir.typicality, key)
  missing = workers.any(typical is None)[0]
  if missing or typical is None:  # all workers measure it, or none
    try:
      dataset = load_run_data()
    except InputError as error:
      process.warn(f"no typicality, as the validation split of the run is not available: {error}")
      return None
    process.phase("measuring the validation split of the run, for the typicality")
    typical = measure_typical(scorer, dataset.validation, key["typical_images"], batch_size)
    try:
      if workers.chief:
        typical.save(workdir.typicality, key | {"data": dataset.fingerprint()["digest"]})
    except OSError as error:
      process.warn(f"{str(workdir.typicality)!r} cannot be written, so it will be measured again: {error.strerror}")
  spread = "" if typical.std is None else f", standard deviation {typical.std:.4f}"
  text = f"mean {typical.mean:.4f}{spread} bits/dim over {typical.images} images of its validation split"
  process.say("", f"typical of the run: {text}")
  return typical.mean


def typical_key(
  workdir: "Workdir", settings: dict, num_samples: int = 16, seed: int = 0, typical_images: int = 1000
) -> dict:
  """Return the `load_typical` key: everything that the typicality of a run depends on. Defaults equal the flags'."""
  return {
    "weights": workdir.weights_info()["sha256"],
    "num_samples": num_samples,
    "seed": seed,
    "typical_images": typical_images,
    "data": settings.get("fingerprint", {}).get("digest"),
  }


def _write(rows, output, names):
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["image", *names, "error"])
  for row in rows:
    scores = [_text(name, row[name]) if name in row else "" for name in names]
    writer.writerow([row["image"], *scores, row.get("error", "")])
  if output is None:
    print(text.getvalue(), end="")
  else:
    outputs.write_file(output, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))


def _text(name, value):
  """Return a score as text; "" for an unknown typicality."""
  return "" if math.isnan(value) else format(value, _FORMATS.get(name, ".6f"))


def _digest(image):
  """Return a digest of an image's shape and values."""
  return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

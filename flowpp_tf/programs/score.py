"""Score single images under a trained model and write a CSV.

bin/score --workdir=runs/digits --images=my_images --output=scores.csv

One row per image, with the columns
  image                 name of the file below the folder, or index in the split or the array
  log_likelihood        importance-weighted bound of --num_samples samples, nats
  bits_per_dim          -log_likelihood / (H W C ln 2)
  typicality            |bits_per_dim - its mean over the validation split of the run|, bits/dim;
                        higher is more anomalous
  nats_per_dim          of real-valued images, whose density is exact: log_likelihood / (H W C)
  complexity_corrected  bits_per_dim - 8 png_bytes / (H W C), bits/dim; higher is more anomalous
  png_bytes             bytes of the pixels in PNG, without the 63 that every PNG has; it and complexity_corrected
                        are of integer images only
  p_value               with --calibrate: that of the image being like the sound images, by its bits_per_dim,
                        two-sided; of sound images at most a share p has a p_value of at most p
  error                 why a file cannot be read; the other columns are then empty

Likelihood by itself does not separate images like the training images from others: simple images are
likely, wherever they come from. docs/scoring.md says what each score can and cannot do.
"""

import collections
from collections.abc import Iterable, Sequence
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import os
import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from flowpp_tf.core.checks import MOST_LEVELS
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import at_least, one_of, setting
from flowpp_tf.io.image_folder import is_array_file, open_folder
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import DeviceOptions, PrecisionOptions
from flowpp_tf.programs.options import SEED

if TYPE_CHECKING:
  from flowpp_tf.evaluation import BitMaps, Scorer
  from flowpp_tf.training import Workdir

_CHUNK = 1024  # images
_FORMATS = {"log_likelihood": ".4f", "png_bytes": "d"}
# Bits per value from black to pale yellow, from the mean: a value of a normal distribution has 0.7 less at its centre,
# and 5.8 more at three standard deviations.
_REAL_RANGE = -1.0, 6.0


@dataclasses.dataclass(frozen=True)
class ScoreOptions(DeviceOptions, DataOptions, PrecisionOptions):
  """Options of bin/score."""

  COMMON = (
    *("preset", "workdir", "images", "dataset", "split", "num_samples", "limit", "output", "tiles", "maps"),
    "calibrate",
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
    "Score images in their own size, cut into tiles of the model's size as archives cut them; else they are cropped "
    "and resized to the model's size.",
  )
  maps: str | None = setting(
    None,
    "New folder for a heat map of each image, PNG: bits of each pixel, which add up to the image's bound. Black is 0 "
    "and below, pale yellow twice the mean of typical images; of real-valued images, whose bits can be negative, 1 bit "
    "per value below that mean, and 6 above it.",
  )
  calibrate: str | None = setting(
    None, "Folder, or array, of sound images that the model was not trained on, as --images; adds the column p_value."
  )
  num_samples: int = setting(16, "Samples of the importance-weighted bound.", at_least(1, 1 << 20))
  batch_size: int = setting(100, "Batch size.", at_least(1, 1 << 16))
  typical_images: int = setting(
    1000,
    "Number of validation images of the run for typicality, spread evenly over the split; all if it has fewer.",
    at_least(2),
  )
  seed: int = setting(0, "Seed of the dequantization noise, the same draws for all images.", SEED)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.images is not None and (self.dataset or self.split):
      raise InputError("--images is a folder, --dataset and --split name other images; give one of them")
    if self.tiles and self.images is None:
      raise InputError("--tiles is for the files of --images; those of a data set have the model's size")
    outputs.check_differ(output=self.output, maps=self.maps)


def run(options: ScoreOptions) -> None:
  """Write the CSV; everything else is printed on stderr."""
  process.phase(_plan(options))
  import_tensorflow()
  from flowpp_tf.evaluation import BitMaps, Scorer
  from flowpp_tf.training import Workers

  batch_size, split = options.batch_size, options.split or "test"
  workdir, workers = options.find_workdir(), Workers(options.set_up_devices())
  with workers.scope():
    model, settings = workdir.load(options.precision)
  of_run = {} if options.dataset else options.given_data
  own_data = functools.cache(lambda: data_options.load_data_of_run(settings, model.config, of_run)[0])
  if options.images is not None:
    count, items = _read_images(model.config, options.images, options.tiles, options.limit)
  else:
    load = functools.partial(data_options.load_given_data, settings, model.config, options.given_data)
    dataset = load() if options.dataset else own_data()
    count, items = _from_array(dataset.split(split), options.limit)
  if model.config.tile_neighbours and not (options.tiles and options.images is not None):
    raise InputError("a model whose tiles see their neighbours scores whole pictures: give --images and --tiles")
  maps = BitMaps(model, options.num_samples, options.seed) if options.tiles or options.maps else None
  scorer = Scorer(model, options.num_samples, options.seed)
  key = typical_key(workdir, settings, options.num_samples, options.seed, options.typical_images)
  if model.config.tile_neighbours:
    process.warn(
      "no typicality, as a validation split has tiles, and the scores of this model are those of whole pictures"
    )
  else:
    scorer.typical = _typical_mean(workdir, workers, scorer, key, own_data, batch_size)
  measure = Measure(scorer, batch_size, maps, pathlib.Path(options.maps) if options.maps and workers.chief else None)
  if options.calibrate is not None:
    sound, sound_items = _read_images(model.config, options.calibrate, options.tiles)
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
      process.warn(f"cannot be read: {row['image']} ({row['error']})")
  if measure.seen:
    process.warn(
      f"{measure.seen} of {count} images are among those of --calibrate too, so that their p-values are too high"
    )
  _write(rows, options.output, [*scorer.names, *([] if options.calibrate is None else ["p_value"])])
  _summarize([row for row in rows if "error" not in row])


def _plan(options):
  """Return what will be done; raise an `InputError` for files that cannot be read or written."""
  inputs = [file for path in (options.images, options.calibrate) if path is not None for file in _files(path)]
  if options.output is not None:
    outputs.check_can_be_written(options.output, inputs + options.data_files())
  if options.maps is not None:
    outputs.check_is_new(options.maps)
  model, _ = options.find_model()
  if options.images is None:
    images = options.split_in_words(options.split or "test")
  else:
    images = f"{f'the first {options.limit:,}' if options.limit else 'the'} images of {options.images}"
  return (
    f"scoring {images} with {model}, {options.num_samples} sample(s) per image, to "
    f"{options.output or 'standard output'}"
  )


def _files(path):
  """Return the image files of a folder, of any model, or the file of an array; raise an `InputError` without any."""
  if is_array_file(path):
    return [path]
  folder, names, _ = open_folder(path, MOST_LEVELS)
  return [folder / name for name in names]


@dataclasses.dataclass
class Measure:
  """Scores images of a batch.

  Attributes:
    scorer: `Scorer` of images of the model's size.
    batch_size: batch size.
    maps: `BitMaps`, of pictures of any size; None for images of the model's size without maps.
    folder: for heat maps; None for none.
    sound: bits/dim of sound images, `[N]`, for p-values; None for none.
    seen: number of images with scores that are among the sound ones.
  """

  scorer: "Scorer"
  batch_size: int
  maps: "BitMaps | None" = None
  folder: pathlib.Path | None = None
  sound: np.ndarray | None = None
  seen: int = dataclasses.field(default=0, init=False)
  _sound_digests: set[bytes] = dataclasses.field(default_factory=set, init=False)
  _written: set[pathlib.Path] = dataclasses.field(default_factory=set, init=False)

  def calibrate(self, items: Iterable[tuple]) -> None:
    """Measure sound images, `(name, image, error)` each; raise an `InputError` if one cannot be read."""
    items, bits = iter(items), list[np.ndarray]()
    while batch := list(itertools.islice(items, self.batch_size)):
      for name, _, error in batch:
        if error:
          raise InputError(f"--calibrate: {name!r} cannot be read: {error}")
      bits.append(self._scores([image for _, image, _ in batch])["bits_per_dim"])
      self._sound_digests.update(_digest(image) for _, image, _ in batch)
    self.sound = np.concatenate(bits)

  def texts(self, names: Sequence[str], images: Sequence[np.ndarray]) -> list[dict[str, str]]:
    """Return the scores of images as text, and write their maps."""
    from flowpp_tf.evaluation import conformal_p_value

    scores = self._scores(images, names)
    if self.scorer.typical is None:
      del scores["typicality"]
    if self.sound is not None:
      self.seen += sum(_digest(image) in self._sound_digests for image in images)
      scores["p_value"] = conformal_p_value(self.sound, scores["bits_per_dim"], two_sided=True)
    return [
      {name: format(value, _FORMATS.get(name, ".6f")) for name, value in zip(scores, values, strict=True)}
      for values in zip(*scores.values(), strict=True)
    ]

  def _scores(self, images, names=()):
    """The scores of images; maps are written for those that have a name."""
    from flowpp_tf.evaluation import scores_of

    if self.maps is None:
      return self.scorer(np.stack(images), self.batch_size)
    parts = []
    for image, values, name in itertools.zip_longest(images, self.maps(images, self.batch_size), names):
      if self.folder is not None and name is not None:
        self._write(self.folder, name, values, image.shape[-1])
      log_likelihood = np.array([-values.sum() * math.log(2)])
      parts.append(scores_of(image[np.newaxis], log_likelihood, self.scorer.typical, self.scorer.names))
    return {name: np.concatenate([part[name] for part in parts]) for name in self.scorer.names}

  def _write(self, folder, name, values, channels):
    """Write a heat map; all of a run have the same colours if the run's typical bits/dim are known."""
    from flowpp_tf.evaluation import REAL_SCORES, heat_map

    mean = float(values.mean()) if self.scorer.typical is None else channels * self.scorer.typical
    low, high = 0.0, 2 * mean if mean > 0 else None
    if self.scorer.names == REAL_SCORES:  # whose bits change with the unit of the data, all by the same
      low, high = (mean + channels * bits for bits in _REAL_RANGE)
    path = folder / (name if name.lower().endswith(".png") else f"{name}.png")
    if ".." in path.parts:
      raise InputError(f"--maps: the name {name!r} leads out of the folder")
    if path in self._written:
      raise InputError(f"--maps: {str(path)!r} is the map of {name!r} and of an image before it; rename one of them")
    self._written.add(path)
    try:
      os.makedirs(path.parent, exist_ok=True)
    except OSError as error:
      raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    picture = heat_map(values, low, high)
    outputs.replace(path, lambda file: picture.save(file, format="PNG"))


def _summarize(rows):
  """Print the mean, the lowest and the highest of each score on stderr."""
  if rows:
    print(f"{len(rows):>8,} images{'mean':>15}{'least':>10}{'most':>10}", file=sys.stderr)
  for name in ("nats_per_dim", "bits_per_dim", "typicality", "complexity_corrected", "p_value"):
    if values := [float(row[name]) for row in rows if name in row]:
      figures = (sum(values) / len(values), min(values), max(values))
      print(f"  {name:<20}{''.join(f'{figure:>10.4f}' for figure in figures)}", file=sys.stderr)


def _read_images(config, path, tiles, limit=None):
  """Return how many images a folder, or a file of an array, has, and for each its name, the image, and an error."""
  from flowpp_tf.data import images as image_files
  from flowpp_tf.data.arrays import load_array

  if is_array_file(path):
    return _from_array(load_array(path, config.pixel_levels, None if tiles else config.image_shape), limit)
  image_files.check_channels(config.image_shape, config.pixel_levels)
  folder, names, kinds_left_out = open_folder(path, config.pixel_levels)
  if kinds_left_out:
    process.warn(f"{path}: {kinds_left_out}")
  names = names[:limit]
  return len(names), _read_files(config, folder, names, tiles)


def _from_array(images, limit):
  """Return how many images there are, up to a limit, and for each its index, the image and None; read in chunks."""
  count = min(len(images), limit or len(images))
  chunks = (images[first : min(first + _CHUNK, count)] for first in range(0, count, _CHUNK))
  return count, zip(map(str, itertools.count()), itertools.chain.from_iterable(chunks), itertools.repeat(None))


def _read_files(config, folder, names, tiles):
  """Yield for each file its name, and its image and None, or None and an error."""
  from flowpp_tf.data import images as image_files
  from flowpp_tf.io.image_file import ImageFileError

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
    process.warn(
      f"{resized} of {len(sizes)} images had to be cropped or resized to {width}x{height}"
      + (f", {enlarged} of them enlarged, which makes their bits/dim low" if enlarged else "")
    )
  for parts, number in counts.items():
    process.warn(f"{number} of {len(names)} files have {parts}")


def _typical_mean(workdir, workers, scorer, key, own_data, batch_size):
  """Return the mean bits/dim of the run's validation split, measured unless known; None without the data."""
  from flowpp_tf.evaluation import load_typical, measure_typical

  def known(key):
    found = load_typical(workdir.typicality, key)
    return None if workers.any(found is None)[0] else found  # all workers measure it, or none

  typical = known(key)
  if typical is None:
    try:
      dataset = own_data()
    except InputError as error:
      process.warn(f"no typicality, as the validation split of the run is not available: {error}")
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
      process.warn(f"{str(workdir.typicality)!r} cannot be written, so it will be measured again: {error.strerror}")
  spread = "" if typical.std is None else f", standard deviation {typical.std:.4f}"
  print(
    f"typical of the run: mean {typical.mean:.4f}{spread} bits/dim over {typical.images} images of "
    "its validation split",
    file=sys.stderr,
  )
  return typical.mean


def typical_key(
  workdir: "Workdir", settings: dict, num_samples: int = 16, seed: int = 0, typical_images: int = 1000
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
    outputs.write_file(output, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))


def _digest(image):
  """Return what tells whether two images have the same values."""
  return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

"""Make pictures with a trained model: samples, interpolations, reconstructions, nearest neighbours.

bin/sample --workdir=runs/digits --n=100 --temperature=0.8 --seed=1
bin/sample --workdir=runs/digits --temperature=0.5,0.7,1.0
bin/sample --workdir=runs/digits --interpolate=test:3,test:7 --output=walk.gif
bin/sample --workdir=runs/digits --reconstruct=test --n=100
bin/sample --workdir=runs/digits --neighbours=5
bin/sample --preset=digits_by_class --labels=0,1,2
"""

import dataclasses
import functools
import hashlib
import os
import pathlib

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import Range, Rule, at_least, setting
from flowpp_tf.io.image_folder import open_folder
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import DeviceOptions, PrecisionOptions, load_on_devices
from flowpp_tf.programs.options import SEED, TEMPERATURES

_KINDS = ("interpolate", "reconstruct", "neighbours")  # if none of these options is given, "samples"
_DRAWN = ("samples", "neighbours")  # kinds that draw samples
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_ANIMATIONS = (".gif", ".apng")
_LONGEST_NAME = 255  # bytes
_KEPT_BYTES = 100  # of a name that is too long
_LABELS = Range(lambda labels: True, "integers such as 0,1,2")
_SIZE = Range(
  lambda size: len(size) == 2 and all(0 < side <= 1 << 16 for side in size), "height and width, such as 300,300"
)
_ENDS = Range(lambda names: len(names) == 2, "two images, such as test:3,test:7 or a.png,b.png")


@dataclasses.dataclass(frozen=True)
class SampleOptions(DeviceOptions, DataOptions, PrecisionOptions):
  """Options of bin/sample."""

  RULES = (
    Rule("reconstruct", lambda options: options.kind == "reconstruct", "left out with --interpolate"),
    Rule("neighbours", lambda options: options.kind == "neighbours", "left out with --interpolate or --reconstruct"),
    Rule("n", lambda options: options.kind != "interpolate", "left out with --interpolate"),
    Rule("temperature", lambda options: options.kind in _DRAWN, "left out with --interpolate or --reconstruct"),
    Rule("temperature", lambda options: options.kind == "samples" or len(options.temperature) == 1, "one number"),
    Rule("labels", lambda options: options.kind == "samples" or len(options.labels) == 1, "one label"),
    Rule("frames", lambda options: options.kind == "interpolate", "left out without --interpolate"),
    Rule(
      "output",
      lambda options: options.output.lower().endswith(_PICTURES) or options.is_animated,
      f"a file that ends in {', '.join(_PICTURES)}, or with --interpolate in {', '.join(_ANIMATIONS)}",
    ),
    Rule("npy", lambda options: not outputs.are_one(options.npy, options.output), "another file than --output"),
  )

  n: int | None = setting(
    None,
    "Number of images. If not given: 64; 10 per row for several temperatures or classes, and for neighbours; 16 of "
    "each split or folder to reconstruct; 4 pictures of tiles that see their neighbours.",
    at_least(1, 100_000),
  )
  temperature: tuple[float, ...] = setting(
    (1.0,),
    "Factor of the standard deviation of the latents. Several values, separated by commas, give one row each, from the "
    "same latents.",
    TEMPERATURES,
  )
  labels: tuple[int, ...] | None = setting(
    None,
    "Labels such as 0,1,2, for a model with classes. Each gives a row, from the same latents; all classes if not "
    "given. -1 draws without a label.",
    _LABELS,
  )
  guidance: float = setting(
    0.0,
    "How far samples are pushed away from those without a label. It is for models with classes; 0 does not push.",
    at_least(-100, 100),
  )
  picture_size: tuple[int, ...] | None = setting(
    None,
    "Height and width of the pictures, such as 300,300. It is for models whose tiles see their neighbours "
    "(tile_neighbours); 4 x 4 tiles if not given.",
    _SIZE,
  )
  seed: int = setting(0, "Seed of the samples and of the dequantization noise.", SEED)
  batch_size: int = setting(100, "Batch size; the images do not depend on it.", at_least(1, 1 << 16))
  interpolate: tuple[str, ...] | None = setting(
    None,
    "Two images to interpolate between in latent space. They are files, or images of the run's data such as "
    "test:3,test:7. An --output that ends in .gif or .apng becomes an animation that plays forwards and backwards.",
    _ENDS,
  )
  frames: int | None = setting(
    None, "Number of images of --interpolate. If not given, 12, or 30 in an animation.", at_least(2, 10_000)
  )
  reconstruct: tuple[str, ...] | None = setting(
    None,
    "Images to encode and decode. They are splits such as test, images such as test:3, files, folders. Each is "
    "followed by its reconstruction and the difference; the largest difference is white.",
  )
  neighbours: int | None = setting(
    None,
    "Number of training images for each sample. They have the smallest root mean square difference of pixel values.",
    at_least(1, 10_000),
  )
  output: str | None = setting(
    None,
    "File for the picture, a PNG, JPEG or WebP by its name. If not given, WORKDIR/samples_t1.0_s0.png, with kind, "
    "temperature, guidance and seed in its name.",
  )
  npy: str | None = setting(
    None,
    "File for the images as an array. It is uint8, uint16 (for more than 256 levels) or real-valued, [n, H, W, C]; "
    "[temperatures, n, ...] for several temperatures, [2, n, ...] for originals and reconstructions, "
    "[n, 1 + neighbours, ...] for samples and their neighbours.",
  )

  @property
  def kind(self) -> str:
    """The kind of picture."""
    return next((kind for kind in _KINDS if getattr(self, kind) is not None), "samples")

  @property
  def is_animated(self) -> bool:
    """Whether the picture is an animation."""
    return self.kind == "interpolate" and (self.output or "").lower().endswith(_ANIMATIONS)


def run(options: SampleOptions) -> None:
  """Write the picture, and the array if --npy is given."""
  process.phase(_plan(options))
  import_tensorflow()
  from flowpp_tf.evaluation import BatchedModel, write_animation

  workdir, workers, model, settings = load_on_devices(options)
  _check_model(options, model.config)
  label = options.labels[0] if options.labels else None
  batched = BatchedModel(model, options.batch_size, label, options.guidance)

  @functools.cache
  def load_data():
    return data_options.load_data_of_run(settings, model.config, options.given_data)

  process.phase("computing the images")
  picture = _picture(options, batched, load_data)
  if not workers.chief:
    return
  ending = f"_s{options.seed}.png"
  if options.guidance:
    ending = f"_g{options.guidance}{ending}"
  output = pathlib.Path(options.output or workdir.path / _file_name(picture.name, ending))
  if options.is_animated:
    outputs.write_file(output, lambda path: write_animation(picture.images, model.config.levels, path))
  else:
    outputs.write_file(output, picture.grid.save)
  if options.npy:
    outputs.write_file(options.npy, lambda path: _save(path, picture.images))


def _plan(options):
  """Return a line on the work ahead; raise an `InputError` for files that cannot be written."""
  model, workdir = options.find_model()
  options.check_output(options.output, workdir)
  names = [*(options.interpolate or ()), *(options.reconstruct or ())]
  for path, begins in ((options.output, outputs.PICTURE), (options.npy, outputs.ARRAY)):
    if path is not None:
      outputs.check_can_be_written(path, begins, [*names, *options.data_places()])
  if options.kind in _DRAWN:
    count = f"{options.n} " if options.n else ""
    temperatures = ",".join(map(str, options.temperature))
    what = f"drawing {count}samples at temperature {temperatures}, seed {options.seed},"
  elif options.kind == "interpolate":
    what = f"interpolating between {' and '.join(names)}"
  else:
    what = f"reconstructing {' and '.join(names)}"
  return f"{what} with {model}, to {options.output or workdir}"


def _check_model(options, config):
  """Raise an `InputError` if the model does not support the options."""
  if options.picture_size and not config.tile_neighbours:
    raise InputError(f"--picture_size is for a model with tile_neighbours; this one draws {config.image_shape}")
  if config.tile_neighbours and (options.kind != "samples" or len(options.temperature) > 1 or options.guidance):
    raise InputError("a model whose tiles see their neighbours draws samples at one --temperature, without --guidance")
  if config.pixel_levels is None and options.kind != "samples":
    raise InputError(f"--{options.kind} is for integer images, and the model's are real-valued")


def _picture(options, batched, load_data):
  """Return the picture that the options ask for."""
  from flowpp_tf.programs import sample_grids

  config = batched.model.config
  seed = options.seed
  temperatures = options.temperature
  if options.kind == "interpolate":
    images = _named_images(options.interpolate, config, load_data, 2)
    default_frames = 30 if options.is_animated else 12
    return sample_grids.interpolation(batched, images, options.interpolate, options.frames or default_frames, seed)
  if options.kind == "reconstruct":
    images = _named_images(options.reconstruct, config, load_data, options.n or 16)
    return sample_grids.reconstruction(batched, images, options.reconstruct, seed)
  if options.kind == "neighbours":
    return sample_grids.neighbours(batched, load_data(), options.neighbours, options.n or 10, temperatures[0], seed)
  labels = options.labels or ()
  if not labels and len(temperatures) == 1:
    labels = range(config.num_classes)
  return sample_grids.samples(batched, options.n, temperatures, labels, seed, options.picture_size)


def _file_name(name, ending):
  """Return a name with an ending; cut a name that is too long for a file, as from 100 labels, and append its digest."""
  data = os.fsencode(name)
  if len(data) + len(ending) > _LONGEST_NAME:
    beginning = data[:_KEPT_BYTES].decode(errors="ignore")
    name = f"{beginning}_{hashlib.sha256(data).hexdigest()[:12]}"
  return name + ending


def _save(path, array):
  with open(path, "wb") as file:  # np.save would append .npy to a path
    np.save(file, array)


def _named_images(names, config, load_data, limit):
  """Return the images of all names, uint8 or uint16 `[N, H, W, C]`.

  Args:
    names: splits of the run's data, images of a split (`test:3`), files or folders; `./test` for a file with the name
      of a split.
    config: `FlowPlusPlusConfig` with the image shape and levels that files are fitted to.
    load_data: function that returns the run's `ImageDataset`, called only if a split is named.
    limit: maximum number of images from each split and each folder.

  Raises:
    InputError (a ValueError): if an image does not exist or cannot be read.
  """
  return np.concatenate([_images(name, config, load_data, limit) for name in names])


def _images(name, config, load_data, limit):
  from flowpp_tf.data.images import read_for_model

  split = data_options.split_in(name)
  if split:
    images = load_data().split(split)
    if name == split:
      return np.asarray(images[:limit])
    index = name.partition(":")[2]
    if not (index.isdecimal() and int(index) < len(images)):
      raise InputError(f"{name!r} must have a number from 0 to {len(images) - 1} after the colon")
    return np.asarray(images[int(index) : int(index) + 1])
  if os.path.isdir(name):
    folder, files, kinds_left_out = open_folder(name, config.levels)
    if kinds_left_out:
      process.warn(f"{name}: {kinds_left_out}")
    return np.stack([read_for_model(folder / file, config) for file in files[:limit]])
  if not os.path.exists(name):
    raise InputError(
      f"there is no image {name!r}; expected a file, a folder, one of "
      f"{', '.join(SPLITS)}, or one image of them such as test:3"
    )
  return read_for_model(name, config)[np.newaxis]

"""Make pictures with a trained model: samples, interpolations, reconstructions, nearest neighbours.

bin/sample --workdir=runs/digits --n=100 --temperature=0.8 --seed=1
bin/sample --workdir=runs/digits --temperature=0.5,0.7,1.0
bin/sample --workdir=runs/digits --interpolate=test:3,test:7 --output=walk.gif
bin/sample --workdir=runs/digits --reconstruct=test --n=100
bin/sample --workdir=runs/digits --neighbours=5
bin/sample --preset=digits_by_class --labels=0,1,2
"""

import functools
import math
import pathlib

from absl import flags
import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import ANIMATIONS, BatchedModel, write_animation
from flowpp_tf.programs import data_flags, device_flags, model_flags, run, sample_pictures
from flowpp_tf.programs.named_images import named_images
from flowpp_tf.training import Workers

FLAGS = flags.FLAGS
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_NOT_WITH = {"interpolate": ("n", "temperature"), "reconstruct": ("temperature",), "neighbours": ()}


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_integer(
    "n",
    None,
    "Number of images. If not given: 64; 10 for several temperatures and for "
    "neighbours; 16 of each split or folder to reconstruct.",
    lower_bound=1,
    upper_bound=100_000,
  )
  flags.DEFINE_list(
    "temperature",
    ["1.0"],
    "Factor of the standard deviation of the latents. "
    "Several values, separated by commas, give one row each, from the same latents.",
  )
  flags.DEFINE_list(
    "labels",
    None,
    "Of a model with classes, labels such as 0,1,2: a row for each, from the same "
    "latents; all classes if not given. -1 leaves the label out.",
  )
  run.define_float(
    "guidance",
    0.0,
    "Of a model with classes, how far samples are pushed from those without a label; 0 for the model itself.",
    -100,
    100,
  )
  flags.DEFINE_integer(
    "seed", 0, "Seed of the samples and of the dequantization noise.", lower_bound=-1 << 63, upper_bound=(1 << 63) - 1
  )
  flags.DEFINE_integer(
    "batch_size", 100, "Batch size; the images do not depend on it.", lower_bound=1, upper_bound=1 << 16
  )
  flags.DEFINE_list(
    "interpolate",
    None,
    "Two images to interpolate between in latent space: files, or images of the run's data such as test:3,test:7.",
  )
  flags.DEFINE_integer(
    "frames",
    None,
    "Number of images of --interpolate; if not given, 12, or 30 in an animation.",
    lower_bound=2,
    upper_bound=10_000,
  )
  flags.DEFINE_bool(
    "animate",
    None,
    "Write --interpolate as an animation that plays forwards and backwards: a "
    "GIF, or an animated PNG, which keeps all colours, if --output ends in .apng or .png. "
    "An --output that ends in .gif or .apng implies --animate.",
  )
  flags.DEFINE_list(
    "reconstruct",
    None,
    "Images to encode and decode: splits such as test, images such as "
    "test:3, files, folders. The rows are originals, reconstructions and differences; the "
    "largest difference is white.",
  )
  flags.DEFINE_integer(
    "neighbours",
    None,
    "Number of training images to show for each sample: those with the "
    "smallest root mean square difference of pixel values.",
    lower_bound=1,
    upper_bound=10_000,
  )
  flags.DEFINE_string(
    "output",
    None,
    "File for the picture, a PNG, JPEG or WebP by its name; if not given, "
    "WORKDIR/samples_t1.0_s0.png, with kind, temperature and seed in its name.",
  )
  flags.DEFINE_string(
    "npy",
    None,
    "File for the images as they are, uint8 [n, H, W, C]; [temperatures, n, ...] "
    "for several temperatures, [2, n, ...] for originals and reconstructions, [n, 1 + "
    "neighbours, ...] for samples and their neighbours.",
  )
  data_flags.define_data_flags(default="that of the run")
  device_flags.define_device_flags()


def sample_from_flags() -> None:
  """Write the picture, and the array if --npy is given."""
  given, temperatures, seed = run.given_from_flags(), _temperatures(FLAGS.temperature), FLAGS.seed
  animated = FLAGS.animate or (FLAGS.output or "").lower().endswith((".gif", ".apng"))
  kind = _kind(given, animated)
  workdir, workers = model_flags.workdir_from_flags(), Workers(device_flags.strategy_from_flags())
  with workers.scope():
    model, settings = workdir.load()
  images_read = [*(FLAGS.interpolate or ()), *(FLAGS.reconstruct or ())]
  for path in (workdir.samples if FLAGS.output is None else FLAGS.output, FLAGS.npy):  # before the work
    if path is not None:
      run.check_can_be_written(path, images_read)
  config, n = model.config, FLAGS.n
  labels = _labels(FLAGS.labels, config)
  if kind == "samples":
    kind = "sweep" if len(temperatures) > 1 else "by_class" if config.num_classes else kind
  if len(labels) > 1 and kind != "by_class":
    raise InputError(f"--labels must be one label for this kind of picture, got {','.join(FLAGS.labels)}")
  batched = BatchedModel(model, FLAGS.batch_size, labels[0] if labels else None, FLAGS.guidance)
  load_data = functools.cache(lambda: data_flags.load_data_of_run(settings, config, given)[0])
  read = lambda names, limit: named_images(names, config, load_data, limit)
  frames = FLAGS.frames or (30 if animated else 12)
  picture = {
    "interpolate": lambda names: sample_pictures.interpolation(batched, read(names, 2), names, frames, seed),
    "reconstruct": lambda names: sample_pictures.reconstruction(batched, read(names, n or 16), names, seed),
    "neighbours": lambda k: sample_pictures.neighbours(batched, load_data(), k, n or 10, temperatures[0], seed),
    "sweep": lambda _: sample_pictures.sweep(batched, n or 10, temperatures, seed),
    "by_class": lambda _: sample_pictures.by_class(
      batched, labels or list(range(config.num_classes)), n or 10, temperatures[0], seed
    ),
    "samples": lambda _: sample_pictures.samples(batched, n or 64, temperatures[0], seed),
  }[kind](given.get(kind))
  output = pathlib.Path(FLAGS.output or workdir.path / f"{picture.name}_s{seed}.{'gif' if animated else 'png'}")
  if not workers.chief:
    return
  if animated:
    run.write_file(output, lambda path: write_animation(picture.images, config.levels, path))
  else:
    run.write_file(output, picture.grid.save)
  if FLAGS.npy:
    run.write_file(FLAGS.npy, lambda path: _save(path, picture.images))


def _temperatures(texts):
  try:
    temperatures = [float(text) for text in texts]
    if temperatures and all(0 <= value < math.inf for value in temperatures):
      return temperatures
  except ValueError:
    pass
  raise InputError(
    f"--temperature must be a number of at least 0, or several such as 0.5,0.7,1.0, got {','.join(texts)!r}"
  )


def _labels(texts, config):
  try:
    labels = list(map(int, texts or ()))
  except ValueError:
    raise InputError(f"--labels must be integers such as 0,1,2, got {','.join(texts)!r}") from None
  if labels and not config.num_classes:
    raise InputError("--labels are for a model with classes, and this one has none")
  return labels


def _kind(given, animated):
  """Return the kind of picture; raise an `InputError` if the flags that were given do not go together."""
  kinds = [kind for kind in _NOT_WITH if kind in given]
  if len(kinds) > 1:
    raise InputError(f"--{kinds[0]} and --{kinds[1]} are two kinds of picture; give one of them")
  kind = kinds[0] if kinds else "samples"
  for name in _NOT_WITH.get(kind, ()):
    if name in given:
      raise InputError(f"--{name} is for samples, and does not go with --{kind}")
  if kind == "neighbours" and len(given.get("temperature", ())) > 1:
    raise InputError(f"--neighbours takes one --temperature, got {','.join(given['temperature'])}")
  output = given.get("output")
  if output and given.get("npy") == output:
    raise InputError(f"--output and --npy are one file, {output!r}; give them two names")
  if output and pathlib.Path(output).suffix.lower() not in _PICTURES and not animated:
    raise InputError(f"--output={output} must end in {', '.join(_PICTURES)}")
  if kind == "reconstruct" and not given["reconstruct"]:
    raise InputError("--reconstruct must name images, such as test or cat.png,dog.png")
  if kind == "interpolate" and len(given["interpolate"]) != 2:
    raise InputError(
      f"--interpolate must be two images, such as test:3,test:7 or a.png,b.png, got {','.join(given['interpolate'])!r}"
    )
  _check_animation(kind, given, animated, output)
  return kind


def _check_animation(kind, given, animated, output):
  if kind != "interpolate":
    for name in ("frames", "animate"):
      if name in given:
        raise InputError(f"--{name} is for --interpolate")
    if animated:
      raise InputError(f"--output={output} would be an animation, which is for --interpolate; expected .png")
  elif given.get("animate") and output and pathlib.Path(output).suffix.lower() not in ANIMATIONS:
    raise InputError(f"--output={output} must end in {', '.join(ANIMATIONS)} for --animate")
  elif given.get("animate") is False and animated:
    raise InputError(f"--output={output} would be an animation, which --noanimate forbids; expected .png")


def _save(path, array):
  with open(path, "wb") as file:  # np.save would append .npy to a path
    np.save(file, array)


def main() -> None:
  """Entry point of `flowpp-sample` and `bin/sample`."""
  define_flags()
  run.run_program(sample_from_flags)

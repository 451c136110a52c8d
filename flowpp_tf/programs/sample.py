"""Makes pictures with a trained model: samples, interpolations, reconstructions, nearest neighbours.

bin/sample --workdir=runs/digits --n=100 --temperature=0.8 --seed=1
bin/sample --workdir=runs/digits --temperature=0.5,0.7,1.0
bin/sample --workdir=runs/digits --interpolate=test:3,test:7 --output=walk.gif
bin/sample --workdir=runs/digits --reconstruct=test --n=100
bin/sample --workdir=runs/digits --neighbours=5
"""

import math
import pathlib

from absl import flags
import numpy as np

from flowpp_tf.errors import InputError
from flowpp_tf.evaluation import ANIMATIONS
from flowpp_tf.evaluation import Batched
from flowpp_tf.evaluation import write_animation
from flowpp_tf.programs import data_flags
from flowpp_tf.programs import run
from flowpp_tf.programs import sample_pictures
from flowpp_tf.training import Workdir

FLAGS = flags.FLAGS
_KINDS = {"interpolate": sample_pictures.interpolation, "reconstruct": sample_pictures.reconstruction,
          "neighbours": sample_pictures.neighbours}
_NOT_WITH = {"interpolate": ("n", "temperature"), "reconstruct": ("temperature",), "neighbours": ()}


def define_flags():
  """The program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
  flags.DEFINE_integer("n", None, "Number of images, 64 if not given, 10 for a row of temperatures and "
                       "for neighbours, 16 of each split or folder to reconstruct.", lower_bound=1)
  flags.DEFINE_list("temperature", ["1.0"], "Factor of the standard deviation of the latents; several, "
                    "with commas, give a row each, of the same latents.")
  flags.DEFINE_integer("seed", 0, "The same seed gives the same images.")
  flags.DEFINE_integer("batch_size", 100, "Images at once; the images do not depend on it.",
                       lower_bound=1)
  flags.DEFINE_list("interpolate", None, "Two images to go from one to the other through latent space: "
                    "files, or images of the run's data such as test:3,test:7.")
  flags.DEFINE_integer("frames", None, "Images of --interpolate, 12 if not given, 30 in an animation.",
                       lower_bound=2)
  flags.DEFINE_bool("animate", None, "Write --interpolate as a film that plays there and back, as a GIF "
                    "or, by --output, an animated PNG, which keeps all colours; so it is anyway if "
                    "--output ends in .gif or .apng.")
  flags.DEFINE_list("reconstruct", None, "Images to encode and decode: splits such as test, images such "
                    "as test:3, files, folders. Rows of the originals, what came back, and the "
                    "difference, of which the largest is white.")
  flags.DEFINE_integer("neighbours", None, "So many training images closest to each sample, by root "
                       "mean square difference of pixel values.", lower_bound=1)
  flags.DEFINE_string("output", None, "The picture, PNG; WORKDIR/samples_t1.0_s0.png, with kind, "
                                      "temperature and seed, if not given.")
  flags.DEFINE_string("npy", None, "File for the images as they are, uint8 [n, H, W, C]; [temperatures, "
                      "n, ...] of several, [2, n, ...] of originals and reconstructions, [n, 1 + "
                      "neighbours, ...] of samples and theirs.")
  data_flags.define_data_flags(default="that of the run")


def sample_from_flags():
  """Writes the picture, and the array if asked to."""
  temperatures = _temperatures()
  make, animated = _kind(temperatures), sample_pictures.animated()
  workdir = Workdir(FLAGS.workdir)
  model, settings = workdir.load()
  for path in (FLAGS.output or workdir.samples, FLAGS.npy):  # before the work
    if path:
      run.check_can_be_written(path)
  picture = make(Batched(model, FLAGS.batch_size), settings, temperatures)
  output = pathlib.Path(FLAGS.output or workdir.path / (
      f"{picture.name}_s{FLAGS.seed}.{'gif' if animated else 'png'}"))
  if animated:
    run.write_file(output, lambda path: write_animation(picture.images, model.config.levels, path))
  else:
    run.write_file(output, lambda path: picture.grid.save(path, format="PNG"))
  if FLAGS.npy:
    run.write_file(FLAGS.npy, lambda path: _save(path, picture.images))


def _temperatures():
  try:
    temperatures = [float(text) for text in FLAGS.temperature]
    if temperatures and all(0 <= value < math.inf for value in temperatures):
      return temperatures
  except ValueError:
    pass
  raise InputError("--temperature must be a number of at least 0, or several such as 0.5,0.7,1.0, got "
                   f"{','.join(FLAGS.temperature)!r}")


def _kind(temperatures):
  """The function that makes the picture; an `InputError` for flags that do not go together."""
  kinds = [kind for kind in _KINDS if FLAGS[kind].value is not None]
  if len(kinds) > 1:
    raise InputError(f"--{kinds[0]} and --{kinds[1]} are two kinds of picture; give one of them")
  kind = kinds[0] if kinds else None
  for name in _NOT_WITH.get(kind, ()):
    if FLAGS[name].present:
      raise InputError(f"--{name} is for samples, and does not go with --{kind}")
  if kind == "neighbours" and len(temperatures) > 1:
    raise InputError("--neighbours takes one --temperature, got "
                     f"{','.join(FLAGS.temperature)}")
  if FLAGS.npy and FLAGS.npy == FLAGS.output:
    raise InputError(f"--output and --npy are one file, {FLAGS.npy!r}; give them two names")
  if kind == "reconstruct" and not FLAGS.reconstruct:
    raise InputError("--reconstruct must name images, such as test or cat.png,dog.png")
  if kind == "interpolate" and len(FLAGS.interpolate) != 2:
    raise InputError("--interpolate must be two images, such as test:3,test:7 or a.png,b.png, got "
                     f"{','.join(FLAGS.interpolate)!r}")
  _check_animation(kind)
  return _KINDS.get(kind) or (
      sample_pictures.sweep if len(temperatures) > 1 else sample_pictures.samples)


def _check_animation(kind):
  """An `InputError` if what was said of an animation does not go together."""
  ending = pathlib.Path(FLAGS.output or "").suffix.lower()
  if kind != "interpolate":
    for name in ("frames", "animate"):
      if FLAGS[name].present:
        raise InputError(f"--{name} is for --interpolate")
    if sample_pictures.animated():
      raise InputError(f"--output={FLAGS.output} would be an animation, which is for --interpolate; "
                       "expected .png")
  elif FLAGS.animate and FLAGS.output and ending not in ANIMATIONS:
    raise InputError(f"--output={FLAGS.output} must end in {', '.join(ANIMATIONS)} for --animate")
  elif FLAGS.animate is False and sample_pictures.animated():
    raise InputError(f"--output={FLAGS.output} would be an animation, which --noanimate forbids; "
                     "expected .png")


def _save(path, array):
  with open(path, "wb") as file:  # else NumPy would add an ending of its own
    np.save(file, array)


def main():
  """Entry point of `flowpp-sample` and `bin/sample`."""
  define_flags()
  run.run_program(sample_from_flags)

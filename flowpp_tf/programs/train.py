"""Trains Flow++ and leaves the run in a working directory.

bin/train --flagfile=configs/digits.flags
"""

import dataclasses
import sys

from absl import flags

from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.evaluation import image_grid
from flowpp_tf.evaluation import plot_curves
from flowpp_tf.evaluation import write_record
from flowpp_tf.models import CONFIGS
from flowpp_tf.models import get_config
from flowpp_tf.programs import data_flags
from flowpp_tf.programs import run
from flowpp_tf.training import STRATEGIES
from flowpp_tf.training import TENSORBOARD
from flowpp_tf.training import Diverged
from flowpp_tf.training import Stopped
from flowpp_tf.training import Workdir
from flowpp_tf.training import WorkerLost
from flowpp_tf.training import Workers
from flowpp_tf.training import enable_determinism
from flowpp_tf.training import get_strategy
from flowpp_tf.training import train

FLAGS = flags.FLAGS
_DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
_SETTINGS = ("steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "clip_norm",
             "ema_decay", "ema_warmup", "accumulate", "validate_every", "init_batch_size", "seed",
             "max_skipped", "debug_numerics", "checkpoint_every", "checkpoint_minutes", "keep",
             "tensorboard", "steps_per_execution", "flip")


def define_flags():
  """The program's flags."""
  flags.DEFINE_string("config", "digits", f"Model, one of {', '.join(CONFIGS)}.")
  run.define_config_flags()
  flags.DEFINE_enum("precision", None, list(_DTYPES), "What the networks compute in, instead of --dtype; "
                    "weights, couplings and sums are float32.")
  data_flags.define_data_flags(default="the config's name")
  flags.DEFINE_integer("image_size", None, "Height and width of the model's images, to which those of a "
                       "folder are cropped and resized; the config's if not given.", lower_bound=1)
  flags.DEFINE_bool("flip", False, "Mirror half of the training images left to right, other ones each "
                    "epoch; off, as published.")
  flags.DEFINE_string("workdir", None, "Directory of the run; runs/CONFIG if not given. The same "
                                       "command goes on with the run that it holds.")
  flags.DEFINE_integer("steps", None, "Training steps, rounded up to whole periods of validate_every.",
                       lower_bound=1)
  flags.DEFINE_float("epochs", None, "Passes over the training data, instead of steps.",
                     lower_bound=0, upper_bound=1e9)
  flags.DEFINE_integer("batch_size", 64, "Images at once, over all devices.", lower_bound=1)
  flags.DEFINE_integer("accumulate", 1, "Batches to a step: as so many times the batch size, in the "
                       "memory of one.", lower_bound=1)
  flags.DEFINE_float("learning_rate", None, "Peak learning rate of Adam, 1e-3 if not given.")
  flags.DEFINE_string("schedule", "constant", "After the warm-up: constant, or cosine (to zero). Or "
                      "all of the schedule, such as linear:3e-4@2000,hold; see "
                      "flowpp_tf/training/schedules.py.")
  flags.DEFINE_integer("warmup_steps", 0, "Steps of linear warm-up of the learning rate.")
  flags.DEFINE_float("clip_norm", 1.0, "Global norm to which gradients are clipped.")
  flags.DEFINE_float("ema_decay", 0.999, "Decay of the averaged weights.")
  flags.DEFINE_bool("ema_warmup", False, "Let that decay be at most (1 + t) / (10 + t) at step t.")
  flags.DEFINE_integer("max_skipped", 10, "Steps in a row that may be skipped since loss or gradients "
                       "are not finite.", lower_bound=1)
  flags.DEFINE_bool("debug_numerics", False, "Say which layer and bijector made a step be skipped.")
  flags.DEFINE_integer("validate_every", None, "Steps between validations; an epoch if not given.")
  flags.DEFINE_integer("init_batch_size", None,
                       "Images for the data-dependent initialisation; a batch if not given.")
  flags.DEFINE_integer("checkpoint_every", None, "Steps between checkpoints, beside those of "
                       "checkpoint_minutes and of validations.", lower_bound=1)
  flags.DEFINE_float("checkpoint_minutes", 10, "Minutes between checkpoints.", lower_bound=0)
  flags.DEFINE_integer("keep", 2, "Checkpoints to keep.", lower_bound=1)
  flags.DEFINE_list("tensorboard", "scalars,samples", "What to write for TensorBoard: any of "
                    f"{', '.join(TENSORBOARD)}, or nothing.")
  flags.DEFINE_list("profile", None, "First and last training step of this process to profile for "
                    "TensorBoard, such as 10,20.")
  flags.DEFINE_integer("steps_per_execution", 1, "Steps between returns to Python.", lower_bound=1)
  flags.DEFINE_bool("deterministic", False, "The same weights to the last bit in every run on a device, "
                    "where that costs speed.")
  flags.DEFINE_integer("num_samples", 64, "Samples of the importance-weighted bound at the end.",
                       lower_bound=1)
  flags.DEFINE_integer("eval_images", None, "Test images at the end; all if not given.",
                       lower_bound=1)
  flags.DEFINE_integer("seed", 0, "Initial weights, shuffle, noise and dropout follow from it.")
  flags.DEFINE_string("strategy", "auto", f"Devices, one of {', '.join(STRATEGIES)}; see "
                      "flowpp_tf/training/strategy.py.")
  flags.DEFINE_string("tpu", None, "Name or address of the TPU, for --strategy=tpu.")
  flags.DEFINE_integer("num_virtual_cpus", 0, "Split the CPU into so many devices, to try mirrored.",
                       lower_bound=0)


def train_from_flags():
  """Trains, tests, draws, and says what to do next."""
  config = data_flags.with_image_size(_with_precision(run.override_config(get_config(FLAGS.config))))
  if FLAGS.deterministic:
    enable_determinism()
  strategy = get_strategy(FLAGS.strategy, FLAGS.num_virtual_cpus, FLAGS.tpu)  # before data use a device
  data = data_flags.data_settings(FLAGS.config)
  dataset = data_flags.load_from_settings(data, config)
  settings = {name: FLAGS[name].value for name in _SETTINGS}
  settings["steps"] = _steps(len(dataset.train))
  chief = Workers(strategy).chief
  workdir = Workdir(FLAGS.workdir or f"runs/{FLAGS.config}")
  say = lambda line: print(line, flush=True)
  try:
    best = train(config, dataset, workdir, record=data, strategy=strategy,
                 profile=_profile(), say=say, verbose=1 if sys.stdout.isatty() else 2,  # a bar, or lines
                 **settings)
  except Stopped as stopped:
    if chief:
      say(f"{stopped} and saved; the same command goes on from there")
    return
  except Diverged as error:
    run.fail(f"{error}; the newest checkpoint in {workdir.checkpoints} is of before; try a lower "
             "--learning_rate or --clip_norm, and --debug_numerics to see where it begins", code=1)
  except WorkerLost as error:
    run.fail(f"{error}; the same command on all hosts goes on from the newest checkpoint", code=1)
  if not chief:
    return

  plot_curves(workdir.metrics, workdir.curves)
  model, _ = workdir.load()
  say(f"best validation: {best:.4f} bits/dim; its weights from here on")
  result = evaluate_bits_per_dim(model, dataset.test[:FLAGS.eval_images], FLAGS.num_samples)
  fingerprint = dataset.fingerprint()
  write_record(workdir.evaluation, "test", result, fingerprint, workdir.checkpoint(), seed=0)
  say(f"test: {result}; data {fingerprint['digest']}")
  image_grid(model.sample(64, seed=FLAGS.seed).numpy(), config.levels).save(workdir.samples)
  say(f"wrote {workdir.samples}, {workdir.curves} and {workdir.metrics}")
  say("next:")
  say(f"  {run.sibling_command('sample')} --workdir={workdir.path} --n=100 --temperature=0.8")
  say(f"  {run.sibling_command('evaluate')} --workdir={workdir.path} --num_samples=256")


def _with_precision(config):
  if FLAGS.precision is None:
    return config
  if FLAGS.dtype is not None:
    raise run.InputError("give the precision as --precision or as --dtype, one of them")
  return dataclasses.replace(config, dtype=_DTYPES[FLAGS.precision])


def _profile():
  if FLAGS.profile is None:
    return None
  try:
    return tuple(map(int, FLAGS.profile))
  except ValueError:
    raise run.InputError("`profile` must be two training steps such as 10,20, got "
                         f"{','.join(FLAGS.profile)}") from None


def _steps(images):
  if (FLAGS.steps is None) == (FLAGS.epochs is None):
    raise run.InputError("give the length of the run as --steps or as --epochs, one of them")
  if FLAGS.steps is not None:
    return FLAGS.steps
  return max(1, round(FLAGS.epochs * images / (FLAGS.batch_size * FLAGS.accumulate)))


def main():
  """Entry point of `flowpp-train` and `bin/train`."""
  define_flags()
  run.run_program(train_from_flags)

"""Reproduce the paper's experiments at a scale of choice.

bin/reproduce --what=ablations --data=digits --seeds=3 --output=ablations_digits

Trains the full model and its variants at equal parameters, and writes table.md, table.json, curves.png and curves.svg
into the folder. Each run is a process of bin/train. The same command resumes; what is complete is not run again.
"""

import pathlib

from absl import flags

from flowpp_tf.core.environment import check_extra
from flowpp_tf.programs import flag_kinds, run
from flowpp_tf.reproduction.variants import BASES, VARIANTS

COMMON = "what data seeds variants jobs steps output".split()
NEEDS_TENSORFLOW = False  # its runs are processes of their own
_MOST = 1 << 31


def define_flags() -> None:
  """Define the program's flags."""
  flags.DEFINE_enum("what", "ablations", ["ablations"], "The experiment: table 2 and figure 1 of the paper.")
  flags.DEFINE_enum("data", "digits", [*BASES], "Data set, with its reduced model; cifar10 has the paper's.")
  flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1, upper_bound=1000)
  flags.DEFINE_list("variants", [*VARIANTS], "Variants to run.")
  flags.DEFINE_string("output", None, "Folder of the runs and of the results; ablations_DATA if not given.")
  flags.DEFINE_integer(
    "jobs", 1, "Runs at a time, each in a process with its share of the cores.", lower_bound=1, upper_bound=1024
  )
  flags.DEFINE_integer(
    "steps", None, "Training steps; those of the recipe if not given.", lower_bound=1, upper_bound=_MOST
  )
  flag_kinds.define_float("epochs", None, "Passes over the training data, instead of steps.", 0, 1e6)
  flags.DEFINE_integer("validate_every", None, "Steps between validations.", lower_bound=1, upper_bound=_MOST)
  flags.DEFINE_integer("eval_images", None, "Test images at the end.", lower_bound=1, upper_bound=_MOST)
  flags.DEFINE_integer(
    "num_samples", None, "Samples of the bound at the end; the table has one.", lower_bound=1, upper_bound=_MOST
  )
  flags.DEFINE_string("data_dir", None, "As of bin/train.")


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` if there is no place for it."""
  given, output = flags.FLAGS, output_from_flags()
  run.check_folder_can_be_written(output)
  check_extra("matplotlib", "a plot of the results")
  runs = f"{len(given.variants)} variant(s) on {given.data}, {given.seeds} seed(s) each"
  return f"{given.what}: {runs}, {given.jobs} at a time, to {output}"


def output_from_flags() -> pathlib.Path:
  """Return the folder of the runs and of the results."""
  return pathlib.Path(flags.FLAGS.output or f"ablations_{flags.FLAGS.data}")

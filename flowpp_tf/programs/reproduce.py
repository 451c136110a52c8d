"""Reproduces the paper's experiments at a scale of choice.

bin/reproduce --what=ablations --data=digits --seeds=3 --output=ablations_digits

trains the full model and its variants at equal parameters, and writes table.md, table.json, curves.png and curves.svg
into the folder. Each run is a process of bin/train. The same command resumes; what is complete is not run again.
"""

import pathlib
import shlex
import sys

from absl import flags

from flowpp_tf.programs import process, run
from flowpp_tf.reproduction.variants import BASES, VARIANTS

_MOST = 1 << 31
_SETTINGS = ("steps", "epochs", "validate_every", "eval_images", "num_samples", "data_dir")


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
  run.define_float("epochs", None, "Passes over the training data, instead of steps.", 0, 1e6)
  flags.DEFINE_integer("validate_every", None, "Steps between validations.", lower_bound=1, upper_bound=_MOST)
  flags.DEFINE_integer("eval_images", None, "Test images at the end.", lower_bound=1, upper_bound=_MOST)
  flags.DEFINE_integer(
    "num_samples", None, "Samples of the bound at the end; the table has one.", lower_bound=1, upper_bound=_MOST
  )
  flags.DEFINE_string("data_dir", None, "As of bin/train.")


def reproduce_from_flags() -> None:
  """Read the flags, then run what is missing, and write the results."""
  from flowpp_tf.reproduction import Stopped, run_ablations

  given = flags.FLAGS
  more = {name: given[name].value for name in _SETTINGS if given[name].value is not None}
  output = pathlib.Path(given.output or f"ablations_{given.data}")
  try:
    failures = run_ablations(given.data, output, given.seeds, given.variants, given.jobs, more)
  except Stopped:
    process.say("", f"stopped and saved; table of what is complete: {output}/table.md; the same command resumes")
    sys.exit(process.STOPPED_AND_SAVED)
  if failures:
    run.fail(f"{len(failures)} run(s) failed, see the logs in {output}/runs; the first: {failures[0]}", process.FAILED)
  print(f"wrote {shlex.quote(str(output / 'table.md'))}, table.json, curves.png and curves.svg")


def main() -> None:
  """Entry point of `flowpp-reproduce` and `bin/reproduce`."""
  define_flags()
  run.run_program(reproduce_from_flags)

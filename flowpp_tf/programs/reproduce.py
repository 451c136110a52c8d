"""Reproduce the paper's experiments at a scale of choice. The flags are in reproduce_flags.py."""

import shlex
import sys

from absl import flags

from flowpp_tf.programs import process, run
from flowpp_tf.programs.reproduce_flags import output_from_flags
from flowpp_tf.reproduction import Stopped, run_ablations

_SETTINGS = ("steps", "epochs", "validate_every", "eval_images", "num_samples", "data_dir")


def reproduce_from_flags() -> None:
  """Run what is missing, and write the results."""
  given, output = flags.FLAGS, output_from_flags()
  more = {name: given[name].value for name in _SETTINGS if given[name].value is not None}
  try:
    failures = run_ablations(given.data, output, given.seeds, given.variants, given.jobs, more)
  except Stopped as stopped:
    how = f"stopped, but not all is saved: {stopped.failures[0]}" if stopped.failures else "stopped and saved"
    process.say("", f"{how}; table of what is complete: {output}/table.md; the same command resumes")
    sys.exit(process.STOPPED_NOT_SAVED if stopped.failures else process.STOPPED_AND_SAVED)
  if failures:
    run.fail(f"{len(failures)} run(s) failed, see the logs in {output}/runs; the first: {failures[0]}", process.FAILED)
  print(f"wrote {shlex.quote(str(output / 'table.md'))}, table.json, curves.png and curves.svg")

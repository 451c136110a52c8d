"""The paper's ablations as a part of results.json: what `bin/reproduce` has found, its table and its curves.

python benchmarks/ablations.py --data=digits --runs=runs/ablations_digits --output=ablations.json

completes the runs of that folder first, which takes hours; on those that are complete it takes seconds.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import app, flags

from tables import write_json

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent


def main(argv):
  del argv
  command = [sys.executable, "-m", "flowpp_tf", "reproduce", "--what=ablations"]
  jobs = len(os.sched_getaffinity(0))
  command += [f"--data={FLAGS.data}", f"--output={FLAGS.runs}", f"--jobs={jobs}"]
  command += [f"--{name}={FLAGS[name].value}" for name in ("steps", "validate_every") if FLAGS[name].value]
  subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
  write_json(FLAGS.output, json.loads((pathlib.Path(FLAGS.runs) / "table.json").read_text()))


if __name__ == "__main__":
  flags.DEFINE_string("data", "digits", "As of bin/reproduce.")
  flags.DEFINE_integer("steps", None, "As of bin/reproduce.")
  flags.DEFINE_integer("validate_every", None, "As of bin/reproduce.")
  flags.DEFINE_string("runs", None, "Folder of the runs.", required=True)
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)

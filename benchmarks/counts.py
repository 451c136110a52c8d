"""What a training step's graph has, counted: operations, kernels, tensors kept. A test holds the code to it.

python benchmarks/counts.py            prints the counts beside those that are stored
python benchmarks/counts.py --write    stores them in benchmarks/counts.json, with those of compiled blocks

Nothing is run or timed, so that the counts are the same on every machine. `operations` are those of the traced graph
and of each function that it calls, once; `kernels` are what runs, as often as it runs; `compiled_kernels` the same if
XLA compiles each kind of block and the mixtures (--jit=blocks), for the modules that it makes for a CPU; `mb_image` is
what the backward pass reads of the forward pass, per image.
"""

import dataclasses
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags

from tables import print_table, write_json

FLAGS = flags.FLAGS
STORED = pathlib.Path(__file__).resolve().parent / "counts.json"
MODELS = (
  "digits",
  "photos",
  "cifar10",
  "cifar10 remat=blocks",
  "cifar10 remat=couplings",
  "celeba128_5bit",
  "celeba128_5bit remat=blocks",
  "celeba128_5bit remat=couplings",
)
QUICK = ("digits", "photos", "cifar10")  # of which the test counts again


def count(name, compiled=False):
  """The counts of a model, named as a config and FIELD=VALUE; those of compiled blocks if asked for."""
  import flowpp_tf as fpp
  import model_counts

  config, *changes = name.split()
  model = fpp.FlowPlusPlus(dataclasses.replace(fpp.get_config(config), **dict(c.split("=") for c in changes)))
  one, two = (model_counts.trace_pass(model, batch, compiled and batch == 2) for batch in (1, 2))
  return dict(
    model=name,
    operations=two["operations"],
    kernels=two["kernels"],
    compiled_kernels=two["compiled_kernels"],
    mb_image=round((two["saved"] - one["saved"]) / 1e6, 2),
  )


def stored():
  """The stored counts by model."""
  return {row["model"]: row for row in json.loads(STORED.read_text())}


def define_flags():
  """The script's flags; a function, as in the other scripts."""
  flags.DEFINE_list("models", list(MODELS), "Models, as config and FIELD=VALUE.")
  flags.DEFINE_bool("write", False, "Store the counts.")


def main(argv):
  del argv
  rows = [count(name, compiled=FLAGS.write and name in QUICK) for name in FLAGS.models]
  before = stored() if STORED.exists() else {}
  print_table(
    [
      row | {f"{key}_stored": value for key, value in before.get(row["model"], {}).items() if key != "model"}
      for row in rows
    ]
  )
  if FLAGS.write:
    write_json(str(STORED), list((before | {row["model"]: row for row in rows}).values()))


if __name__ == "__main__":
  define_flags()
  app.run(main)

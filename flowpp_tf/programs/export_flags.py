"""Write a trained model as a SavedModel, for TensorFlow and TensorFlow Serving; see docs/serving.md.

bin/export --workdir=runs/digits
"""

import pathlib

from absl import flags

from flowpp_tf.programs import model_flags

COMMON = "preset workdir output max_batch overwrite".split()


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_string(
    "output", None, "Directory to write, named by a number for TensorFlow Serving; WORKDIR/saved_model/1 if not given."
  )
  flags.DEFINE_integer(
    "max_batch",
    256,
    "Maximum batch size of a call; an image counts once for each sample of its bound.",
    lower_bound=1,
    upper_bound=1 << 20,
  )
  flags.DEFINE_bool("overwrite", False, "Replace an existing SavedModel.")


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  return f"exporting {model_flags.model_from_flags()[0]} as a SavedModel to {output_from_flags()}"


def output_from_flags() -> pathlib.Path:
  """Return the directory to write."""
  return pathlib.Path(flags.FLAGS.output or model_flags.model_from_flags()[1] / "saved_model" / "1")

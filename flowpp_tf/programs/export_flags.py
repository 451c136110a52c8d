"""Write a trained model as a SavedModel, as ONNX, for LiteRT or OpenVINO, or as a preset.

bin/export --workdir=runs/digits
bin/export --preset=digits --format=onnx --output=digits_onnx
"""

import pathlib

from absl import flags

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import WEIGHT_DTYPES
from flowpp_tf.programs import model_flags

COMMON = "preset workdir format output max_batch calibrate overwrite".split()
# What each format is called, and where below the run's directory it is written.
FORMATS = {
  "saved_model": ("a SavedModel", ("saved_model", "1")),
  "onnx": ("ONNX", ("onnx",)),
  "litert": ("LiteRT", ("litert",)),
  "openvino": ("OpenVINO", ("openvino",)),
  "preset": ("a preset, for a hub of models", ("preset",)),
}


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  model_flags.define_precision_flag()
  flags.DEFINE_enum("format", "saved_model", [*FORMATS], "What to write.")
  flags.DEFINE_string(
    "output",
    None,
    "Directory to write, named by a number for TensorFlow Serving; WORKDIR/saved_model/1 if not given, or "
    "WORKDIR/onnx and so on.",
  )
  flags.DEFINE_integer(
    "max_batch",
    256,
    "Maximum batch size of a call of a SavedModel; an image counts once for each sample of its bound.",
    lower_bound=1,
    upper_bound=1 << 20,
  )
  flags.DEFINE_string(
    "license", "unknown", "Licence of the model, in the card of --format=preset, such as apache-2.0 or cc-by-4.0."
  )
  flags.DEFINE_bool(
    "calibrate",
    False,
    "Write into metadata.json the bits/dim that 10, 5, 1 and 0.1 % of images like those of training exceed, from up to "
    "1,000 images of the run's validation split.",
  )
  flags.DEFINE_enum(
    "weight_dtype",
    "float32",
    WEIGHT_DTYPES,
    "How --format=onnx and openvino store the kernels of the networks; smaller files cost bits/dim (docs/serving.md).",
  )
  flags.DEFINE_bool("overwrite", False, "Replace an existing export of the same format.")


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given = flags.FLAGS
  if given.format != "saved_model" and given["max_batch"].present:
    raise InputError(f"--max_batch is for --format=saved_model; --format={given.format} takes batches of any size")
  if given.format in ("onnx", "openvino"):
    check_extra("onnx", "onnx", f"--format={given.format}")
    check_extra(given.format, given.format, f"--format={given.format}")
  elif given.weight_dtype != "float32":
    raise InputError(f"--weight_dtype is for --format=onnx and openvino, not for --format={given.format}")
  if given.format != "preset" and given["license"].present:
    raise InputError(f"--license is for --format=preset, whose card says it, not for --format={given.format}")
  if given.format == "preset" and given.calibrate:
    raise InputError("--calibrate is for exported functions, which --format=preset does not have")
  model, workdir = model_flags.model_from_flags()
  model_flags.check_output_from_flags(workdir)
  output = output_from_flags()
  if workdir.resolve().is_relative_to(output.resolve()):  # which --overwrite would replace
    raise InputError(f"--output={output} holds the model itself, {workdir}; give another directory")
  return f"exporting {model} as {FORMATS[given.format][0]} to {output}"


def output_from_flags() -> pathlib.Path:
  """Return the directory to write."""
  if flags.FLAGS.output:
    return pathlib.Path(flags.FLAGS.output)
  workdir = model_flags.model_from_flags()[1]
  return workdir.joinpath(*FORMATS[flags.FLAGS.format][1])

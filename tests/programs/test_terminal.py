"""What a terminal shows: flags are read without TensorFlow, help, the first line, figures."""

import json
import subprocess
import sys

import pytest

from flowpp_tf.programs.commands import COMMANDS
from support.programs import LIMIT, ROOT, call

# What each program does with each list of arguments until it would import TensorFlow: exit code, the last line of
# stderr, and the heavy modules that are loaded by then. One process for all.
_READ = """
import contextlib, io, json, sys
from absl import flags
from flowpp_tf.programs import command, process

class Reached(BaseException): pass

def phase(line):
  if line == "importing TensorFlow": raise Reached
  print(line, file=sys.stderr)

process.phase, found = phase, []
for program, *arguments in json.load(sys.stdin):
  sys.argv, before, error, code = [program, *arguments], {*flags.FLAGS}, io.StringIO(), None
  with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
    try: command.run_command(program)
    except SystemExit as end: code = end.code
    except Reached: pass
  heavy = {"tensorflow", "keras", "jax", "PIL", "tensorflow_probability", "matplotlib"} & {*sys.modules}
  found.append([code, *error.getvalue().splitlines()[-1:], sorted(heavy)])
  flags.FLAGS.unparse_flags()
  for name in {*flags.FLAGS} - before: delattr(flags.FLAGS, name)
print(json.dumps(found))
"""
_OF_ALL = [
  (["--help"], 0, None),
  (["--helpfull"], 0, None),
  (["--versoin"], 2, "Unknown command line flag 'versoin'. Did you mean: version ?"),
  (["a", "b"], 2, "unexpected argument"),
  (["--memory=lots"], 2, "`--memory` must be a number"),
]
_EVERY = [([command, *arguments], code, text) for command in COMMANDS for arguments, code, text in _OF_ALL]
_SINGLE = [
  (["train", "--config=digit"], 2, "unknown config 'digit'; did you mean digits?"),
  (["train", "--dataset=foto"], 2, "unknown dataset 'foto'; did you mean photos?"),
  (["train", "--dataset=folder:"], 2, "must have the form folder:PATH"),
  (["train", "--learning_rate=-1"], 2, "`learning_rate` must be positive"),
  (["train", "--num_samples=0"], 2, "`num_samples` must be at least 1, got 0"),
  (["train", "--image_shape=9,8,1"], 2, "the height is 9"),
  (["train", "--strategy=two"], 2, "`strategy` must be one of auto, one, mirrored"),
  (
    ["train", "--quick"],
    None,
    "training config digits on digits: 150 steps of 64 images in float32, to runs/digits_quick",
  ),
  (
    ["train", "--config=photos_crops", "--learning_rate=1e-3", "--quick"],
    None,
    "to runs/photos_crops_quick, without the config's --schedule=linear:",
  ),
  (["train", "--epochs=2", "--precision=bfloat16"], None, "2 epochs of 64 images in bfloat16, to runs/digits"),
  (["evaluate"], 2, "give the model as --workdir or as --preset, one of them"),
  (["evaluate", "--workdir=nothing"], 2, "workdir 'nothing' holds no run"),
  (["evaluate", "--preset=digit"], 2, "unknown preset 'digit'; did you mean digits"),
  (["evaluate", "--preset=digits", "--split=dev"], 2, "`split` must be one of train, validation, test, got 'dev'"),
  (
    ["evaluate", "--preset=digits", "--num_samples=1,4"],
    None,
    "evaluating preset digits on the test split of the model's data, to ",
  ),
  (["score", "--preset=digits", "--images=nowhere"], 2, "folder 'nowhere' is not there"),
  (["score", "--preset=digits"], None, "with preset digits, to standard output"),
  (["sample", "--preset=digits", "--interpolate=a.png"], 2, "`interpolate` must be two images"),
  (["sample", "--preset=digits", "--labels=a"], 2, "`labels` must be integers"),
  (["sample", "--preset=digits", "--n=9"], None, "drawing 9 samples at temperature 1.0, seed 0, with preset digits"),
  (["export", "--preset=digits"], None, "as saved_model to presets/digits/saved_model/1"),
  (["export", "--preset=digits", "--format=onnx"], None, "as onnx to presets/digits/onnx"),
  (
    ["export", "--preset=digits", "--format=litert", "--max_batch=9"],
    2,
    "`max_batch` must be left out unless --format=saved_model",
  ),
  (["demo", "--auth=me"], 2, "--auth must be USER:PASSWORD"),
  (["compress", "--preset=digits"], 2, "give --output, or --estimate"),
  (["compress", "--preset=digits", "--images=nowhere", "--estimate"], 2, "is not a file"),
  (
    ["compress", "--preset=digits", "--images=bin", "--output=x.fpp"],
    None,
    " files of bin with preset digits to x.fpp",
  ),
  (["decompress"], 2, "give the archive"),
  (["decompress", "a.fpp"], 2, "give --output, or --list"),
]


@pytest.fixture(scope="module")
def read():
  """What `_READ` prints, by arguments."""
  arguments = [arguments for arguments, *_ in _EVERY + _SINGLE]
  # From the root of the repository, where no run is.
  result = subprocess.run(
    [sys.executable, "-c", _READ], input=json.dumps(arguments), capture_output=True, text=True, timeout=LIMIT, cwd=ROOT
  )
  assert result.returncode == 0, result.stderr
  return dict(zip(map(tuple, arguments), json.loads(result.stdout), strict=True))


def test_what_is_wrong_is_refused_and_what_will_be_done_is_said_without_tensorflow(read):
  for arguments, code, text in _EVERY + _SINGLE:
    found, *lines, heavy = read[tuple(arguments)]
    assert found == code and not heavy, (arguments, found, lines, heavy)
    assert not lines if text is None else text in lines[0], (arguments, lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_short_fits_the_terminal_and_lists_names(command, tmp_path, monkeypatch):
  for columns, most in ((80, 36), (100, 32)):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = call(command, "--help", cwd=tmp_path).out.splitlines()
    assert len(lines) <= most and all(len(line) <= columns for line in lines if not line.startswith("bin/"))
  text, full = "\n".join(lines), call(command, "--helpfull", cwd=tmp_path).out
  assert "--verbosity" not in full and "--memory" in full and "--memory" not in text  # absl's own flag; a limit
  if command != "demo":
    assert "fashion_mnist" in text  # of the configs or the presets

"""Programs as processes and at a terminal: exit codes, first and last lines, help, signals, and flags."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from flowpp_tf.config import FlowPlusPlusConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import value_type
from flowpp_tf.programs import process
from flowpp_tf.programs.command import options_of
from flowpp_tf.programs.commands import COMMANDS
from flowpp_tf.training import TrainingConfig
from support.programs import LIMIT, ROOT, call, refusal, run, start, wait_for

HUGE = 10**20


def script(body, *arguments, **options):
  """Run `process.own` of a small function as a process."""
  code = (
    "import os, signal, sys, time; from flowpp_tf.programs import process\ndef main():\n"
    + textwrap.indent(textwrap.dedent(body), "  ")
    + "\nprocess.run_and_exit(main)"
  )
  return subprocess.run(
    [sys.executable, "-c", code, *arguments], text=True, timeout=LIMIT, cwd=ROOT, **{"capture_output": True, **options}
  )


@pytest.mark.parametrize(
  "body, code, error",
  [
    ("pass", process.DONE, ""),
    ("sys.exit(3)", process.STOPPED_AND_SAVED, ""),
    ("sys.exit('a reason')", process.FAILED, "error: a reason"),
    ("raise RuntimeError('two\\nlines')", process.FAILED, "error: RuntimeError: two lines (--debug shows where)"),
    ("raise MemoryError", process.FAILED, "error: out of memory"),
    ("import absent", process.FAILED, "error: absent is not installed here: activate"),
    ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(10**6)", 143, "stopped by SIGTERM"),
    ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(10**6)", 129, "stopped by SIGHUP"),
    ("os.kill(os.getpid(), signal.SIGINT); time.sleep(10**6)", 130, "stopped by Ctrl-C"),
    ("raise KeyboardInterrupt", 130, "stopped by Ctrl-C"),
    # A library has made another error of it, or the program has.
    *(
      (
        f"try:\n  os.kill(os.getpid(), signal.SIGTERM); time.sleep(10**6)\nexcept BaseException:\n  {end}",
        143,
        "SIGTERM",
      )
      for end in ("raise RuntimeError('a callback failed')", "sys.exit(2)")
    ),
    # The program has answered it.
    *(
      (f"try:\n  os.kill(os.getpid(), signal.SIGTERM); time.sleep(10**6)\nexcept BaseException:\n  {end}", code, "")
      for end, code in (("sys.exit()", process.DONE), ("sys.exit(3)", process.STOPPED_AND_SAVED))
    ),
    # A signal is heard where its exception is not: here it is thrown away.
    (
      "try:\n  os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException: pass\n"
      "os.kill(os.getpid(), signal.SIGINT); time.sleep(10**6)",
      130,
      "",
    ),
    ("print('\\udcff\\u4e00'); sys.exit(0)", process.DONE, ""),
  ],
)
def test_a_program_ends_with_its_code_and_one_line(body, code, error):
  result = script(body, env={**os.environ, "PYTHONIOENCODING": "ascii"})
  assert result.returncode == code, result.stderr
  assert len(result.stderr.splitlines()) == bool(error) and error in result.stderr


@pytest.mark.skipif(not shutil.which("grep"), reason="nothing is left out there")
def test_what_a_library_says_last_is_seen_though_noise_is_left_out():
  body = """
    from flowpp_tf.programs.imports import without_noise
    with without_noise():
      os.write(2, b"I0000 00:00:17.5 7 a.cc:3] found no GPU\\nFATAL: this machine has no AVX\\n")
      os.abort()
  """
  result = script(body)
  assert result.returncode == -signal.SIGABRT and result.stderr == "FATAL: this machine has no AVX\n"


def test_packages_that_keras_can_do_without_are_hidden_only_from_its_import():
  body = """
    import sys
    from flowpp_tf.programs.imports import without_optional_packages
    sys.modules["pandas"] = sys  # as if it were imported
    with without_optional_packages():
      import pandas
      try:
        import matplotlib
      except ImportError:
        print("hidden")
    import matplotlib
    print(pandas is sys)
  """
  assert script(body).stdout == "hidden\nTrue\n"


def test_garbage_of_a_program_is_collected_after_its_imports_and_modules_are_not_searched():
  body = """
    import gc, importlib, weakref
    from flowpp_tf.programs import imports
    importlib.import_module = lambda name: print(gc.isenabled())
    class Cycle: pass
    def found():
      cycle = Cycle()
      cycle.itself = cycle
      return weakref.ref(cycle)
    imports.import_tensorflow()
    print(gc.isenabled(), gc.get_freeze_count() > 0)
    garbage = found()
    gc.collect()
    print(garbage())
    gc.unfreeze()
    sys.modules["tensorflow"] = sys  # as if it were imported
    imports.import_tensorflow()
    print(gc.get_freeze_count())
  """
  assert script(body).stdout.split() == [*["False"] * 3, "True", "True", "None", "0"]


@pytest.mark.slow
def test_a_program_does_not_import_what_keras_can_do_without():
  body = """
    from flowpp_tf.programs import imports
    imports.import_tensorflow()
    print({*imports._OPTIONAL} & {*sys.modules}, "keras" in sys.modules)
  """
  assert script(body).stdout == "set() True\n"


def test_debug_shows_where_an_error_is():
  result = script("raise RuntimeError('here')", "--debug")
  assert result.returncode == 1 and "Traceback" in result.stderr and "RuntimeError: here" in result.stderr


def test_a_signal_that_was_ignored_stays_ignored():
  ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
  result = script("os.kill(os.getpid(), signal.SIGHUP); print('on')", preexec_fn=ignore)
  assert (result.returncode, result.stdout) == (0, "on\n")


def test_output_that_nobody_reads_or_that_has_no_room_is_no_traceback():
  with open("/dev/full", "w") as full:
    result = script("print('text')", capture_output=False, stdout=full, stderr=subprocess.PIPE)
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1 and "No space left" in result.stderr
  reader, writer = os.pipe()
  os.close(reader)
  result = script("print('text')", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
  os.close(writer)
  assert result.stderr == ""


def test_a_signal_while_the_last_output_waits_for_its_reader_is_no_traceback():
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  with contextlib.suppress(BlockingIOError):
    while True:
      os.write(writer, b"x" * 512)
  os.set_blocking(writer, True)
  body = "import threading; threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start(); print('text')"
  buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
  result = script(body, capture_output=False, stdout=writer, stderr=subprocess.PIPE, env=buffered)
  os.close(reader), os.close(writer)
  assert (result.returncode, result.stderr) == (130, "")


@pytest.mark.slow
def test_the_first_line_comes_at_once_and_nothing_but_lines_of_the_program(tmp_path):
  lines = "drawing 1 samples at temperature 1.0, seed 0, with preset digits, to presets/digits\nimporting TensorFlow\n"
  result = run("sample", "--preset=digits", "--n=1", cwd=tmp_path)
  assert result == (
    0,
    "wrote presets/digits/samples_t1.0_s0.png\n",
    f"{lines}loading preset digits\ncomputing the images\n",
  )
  (tmp_path / "tensorflow.py").write_text("import sys\nsys.exit('now it does')")
  result = run("sample", "--preset=digits", "--n=1", cwd=tmp_path, PYTHONPATH=str(tmp_path))
  assert (result.code, result.error) == (1, f"{lines}sample: error: now it does\n")


@pytest.mark.parametrize("given, expected", [(None, "1"), ("0", "0")])
def test_programs_have_the_kernels_of_onednn_unless_the_environment_says_otherwise(tmp_path, given, expected):
  (tmp_path / "tensorflow.py").write_text("import os, sys\nsys.exit(os.environ['TF_ENABLE_ONEDNN_OPTS'])")
  environment = dict(PYTHONPATH=str(tmp_path), TF_ENABLE_ONEDNN_OPTS=given)
  result = run("sample", "--preset=digits", "--n=1", cwd=tmp_path, **environment)
  assert (result.code, result.error.splitlines()[-1]) == (1, f"sample: error: {expected}")


def test_a_program_is_stopped_while_it_imports_tensorflow(tmp_path):
  program = start(
    ["-m", "flowpp_tf", "sample"],
    "--preset=digits",
    "--n=100000",
    cwd=tmp_path,
    stderr=subprocess.PIPE,
    PYTHONPATH=str(ROOT),
  )
  lines = [program.stderr.readline() for _ in range(2)]
  assert lines[0].startswith("drawing 100000 samples") and lines[1] == "importing TensorFlow\n"
  wait_for(lambda: "libtensorflow" in pathlib.Path(f"/proc/{program.pid}/maps").read_text(), program)
  program.send_signal(signal.SIGINT)
  assert program.communicate(timeout=LIMIT)[1] == "flowpp-sample: stopped by Ctrl-C\n" and program.returncode == 130


def test_a_signal_while_tensorflow_is_imported_raises_nothing_in_it(tmp_path):
  (tmp_path / "tensorflow.py").write_text(
    "import os, signal\ntry:\n  os.kill(os.getpid(), signal.SIGTERM)\nexcept BaseException:\n  os.abort()"
  )  # as C++ that calls Python
  result = run("sample", "--preset=digits", "--n=1", cwd=tmp_path, PYTHONPATH=str(tmp_path))
  assert (result.code, result.error.splitlines()[-1]) == (143, "sample: stopped by SIGTERM")


def test_commands_are_listed_and_unknown_ones_are_refused():
  usage = run(["-m", "flowpp_tf"], "--help", cwd=ROOT)
  assert usage.code == 0 and all(name in usage.out for name in COMMANDS)
  result = run(["-m", "flowpp_tf"], "trian", cwd=ROOT)
  assert result.code == 2 and result.error.endswith("error: unknown command 'trian'; did you mean train?\n")
  assert run(["-m", "flowpp_tf"], "--version", cwd=ROOT).out.startswith("flowpp_tf ")


# --- Flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "content, message",
  [
    (b"--workdir=a\0b\n", "has a NUL character"),
    (b"--workdir=\xff\xfe\n", "can't decode byte"),
    (b"--steps\n", "steps"),
    (b"--nothing=1\n", "nothing"),
    (b"--steps=1\n" * 3 + b"--steps=x\n", "steps"),
  ],
)
def test_flag_files_of_any_content_are_one_line(tmp_path, content, message):
  (tmp_path / "a.flags").write_bytes(content)
  assert message in refusal("train", "--flagfile=a.flags", cwd=tmp_path)


@pytest.mark.parametrize("path", [".", "missing"])
def test_flag_files_that_are_none_are_refused_at_once(tmp_path, path):
  message = refusal("train", f"--flagfile={path}", cwd=tmp_path)
  assert "error: Unable to open flagfile" in message and "ERROR" not in message


def _numbers():
  for kind in (*map(options_of, COMMANDS), FlowPlusPlusConfig, TrainingConfig):
    for field in dataclasses.fields(kind):
      if value_type(field) in (int, float):
        yield kind, field


@pytest.mark.parametrize(
  "kind, field", list(_numbers()), ids=lambda value: getattr(value, "name", "") or value.__name__
)
def test_every_number_of_a_command_and_of_a_config_is_bounded(kind, field):
  of_config, start = kind in (FlowPlusPlusConfig, TrainingConfig), {"steps": 1} if kind is TrainingConfig else {}
  large = field.name in ("clip_norm", "learning_rate", "act_norm_min_variance")  # of no use, and harmless
  for value in (*([] if large and of_config else [HUGE]), -HUGE, math.nan, math.inf, *([-1] if of_config else [])):
    with pytest.raises(InputError, match=f"`{field.name}` must be"):
      kind(**{**start, field.name: value})


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--seed=4294967296"], "`seed` must be at most 4,294,967,295"),
    ([f"--filters={HUGE}"], "`filters` must be at most 65,536"),
    (["--workdir="], "`workdir` is empty"),
    ([f"--structure=columns:{HUGE}"], "structure"),
    (["--image_shape=1,2"], "image_shape"),
    (["--config="], "config"),
    (["--workdir=\udcff"], "must be the path of a directory in UTF-8"),
  ],
)
def test_values_that_once_were_tracebacks_are_one_line(tmp_path, arguments, message):
  assert message in refusal("train", "--steps=1", *arguments, cwd=tmp_path)


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
  (["train", f"--{'x' * 3000}"], 2, "a flag's name is too long"),
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
  if command == "train":
    assert "Train Flow++" in text and "--batch_size" in text and "cifar10_vflow" in text
    assert all(flag in full for flag in ("--filters", "--[no]crops", "--max_pixels"))

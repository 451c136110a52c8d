"""The commands: `bin/train`, `flowpp-train` and `python -m flowpp_tf train` begin here, before TensorFlow is imported.

train evaluate sample score export demo compress decompress reproduce
"""

import contextlib
import functools
import importlib
import os
import re
import sys
import tempfile

from flowpp_tf.programs import process
from flowpp_tf.version import __version__

COMMANDS = {
  "train": "train a model and leave the run in a working directory",
  "evaluate": "measure bits/dim of a trained model",
  "sample": "draw samples, interpolate, reconstruct, find neighbours",
  "score": "score single images, as CSV",
  "export": "write a SavedModel",
  "demo": "show a model on a web page",
  "compress": "compress images without loss",
  "decompress": "give compressed images back",
  "reproduce": "run the paper's ablations, with table and plot",
}

_NOISE = re.compile(
  rb"[IWE]\d{4} [\d:.]+ +\d+ \S+\.cc:\d+\] |WARNING: All log messages before absl::InitializeLog|"
  rb"To enable the following instructions: |\s*$"
)


def start(command: str) -> None:
  """Run a command with the flags in `sys.argv`, and end the process."""
  process.run_and_exit(lambda: _start(command))


def _start(command):
  arguments = [argument.lstrip("-").partition("=")[0] for argument in sys.argv[1:] if argument.startswith("-")]
  if "version" in arguments:
    print(f"flowpp_tf {__version__}")
    return
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  imports = command not in ("decompress", "reproduce")
  if imports and not {"help", "helpfull", "helpshort", "h", "?"}.intersection(arguments):
    print("importing TensorFlow", file=sys.stderr, flush=True)
  with _without_noise():
    program = importlib.import_module(f"flowpp_tf.programs.{command}")
  program.main()


@contextlib.contextmanager
def _without_noise():
  """Leave out what TensorFlow's libraries say of the machine while they are loaded, before any setting stops them."""
  with tempfile.TemporaryFile() as kept:
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(kept.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(stderr, 2)
      os.close(stderr)
      kept.seek(0)
      for line in kept:
        if not _NOISE.match(line):
          os.write(2, line)


def main() -> None:
  """Entry point of `flowpp` and `python -m flowpp_tf`: the first argument is the command."""
  command = sys.argv[1] if len(sys.argv) > 1 else ""
  if command in COMMANDS:
    sys.argv[:2] = [f"flowpp-{command}"]
    start(command)
  process.run_and_exit(lambda: _explain(command))


def _explain(command):
  if command == "--version":
    print(f"flowpp_tf {__version__}")
    return
  usage = "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items())
  text = f"usage: python -m flowpp_tf COMMAND [--flags]; COMMAND --help lists its flags\n\n{usage}"
  if command in ("--help", "-h", "help"):
    print(text)
    return
  print(text, file=sys.stderr)
  if command:
    process.say("error", f"unknown command {command!r}; expected one of {', '.join(COMMANDS)}")
  sys.exit(process.BAD_INPUT)


# Entry points of `flowpp-train` and so on, and of bin/.
train, evaluate, sample, score, export, demo, compress, decompress, reproduce = (
  functools.partial(start, command) for command in COMMANDS
)

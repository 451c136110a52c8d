"""Start a command: the entry points of `bin/train`, `flowpp-train` and `python -m flowpp_tf train`.

train evaluate sample score export demo compress decompress
"""

import functools
import importlib
import os
import sys

from flowpp_tf.core.errors import unknown_name
from flowpp_tf.programs import process
from flowpp_tf.version import __version__

COMMANDS = {
  "train": "train a model and leave the run in a working directory",
  "evaluate": "measure bits/dim of a trained model",
  "sample": "draw samples, interpolate, reconstruct, find neighbours",
  "score": "score single images, as CSV",
  "export": "write a SavedModel, ONNX, LiteRT, OpenVINO or a preset",
  "demo": "show a model on a web page",
  "compress": "compress images without loss",
  "decompress": "give compressed images back",
}


def start(command: str) -> None:
  """Run a command with the flags in `sys.argv`, and end the process."""
  process.run_and_exit(lambda: _start(command))


def _start(command):
  if "version" in (argument.lstrip("-") for argument in sys.argv[1:] if argument.startswith("-")):
    print(f"flowpp_tf {__version__}")
    return
  if command not in COMMANDS:
    _explain(command)
    return
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster without AVX-512 too, but off there by default
  importlib.import_module("flowpp_tf.programs.command").run_command(command)  # imported after signals are handled


def main() -> None:
  """Run `flowpp` or `python -m flowpp_tf`: the first argument is the command."""
  command = sys.argv[1] if len(sys.argv) > 1 else ""
  if command in COMMANDS:
    sys.argv[:2] = [f"flowpp-{command}"]
  start(command)


def _explain(command):
  if command not in ("", "--help", "-h", "help"):
    process.fail(unknown_name("command", command, COMMANDS))
  usage = "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items())
  print(f"usage: python -m flowpp_tf COMMAND [--flags]; COMMAND --help explains its flags\n\n{usage}")


# Entry points of `flowpp-train` and so on, and of bin/.
train, evaluate, sample, score, export, demo, compress, decompress = (
  functools.partial(start, command) for command in COMMANDS
)

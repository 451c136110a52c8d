"""What the programs share: one clear line and exit code 2 for bad input, flags for a config."""

import dataclasses
import os
import sys

from absl import app
from absl import flags
from absl import logging

from flowpp_tf.errors import InputError
from flowpp_tf.files import replace_file
from flowpp_tf.models import FlowPlusPlusConfig

_OPTIONS = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
            str: flags.DEFINE_string}


def run_program(main):
  """Parses the flags and calls `main()`; bad flags and `InputError`s end in one line, exit code 2."""
  # `--help` shows the docstring and the flags of the script: give it those of the program.
  module = sys.modules[main.__module__]
  sys.modules["__main__"].__doc__ = module.__doc__
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    if name.startswith(f"{__package__}."):
      for flag in defined:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

  def parse(argv):
    try:
      rest = flags.FLAGS(argv)
    except flags.Error as error:
      fail(error)
    if len(rest) > 1:
      fail(f"unexpected argument {rest[1]!r}; all settings are flags, see --help")
    return rest

  def guarded(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    try:
      main()
    except InputError as error:
      fail(error)

  app.run(guarded, flags_parser=parse)


def fail(error, code=2):
  """Ends the process with one line and an exit code."""
  _say("error", error)
  sys.exit(code)


def check_can_be_written(path):
  """Raises an `InputError` if a file cannot be written, to be called before the work that goes into it."""
  folder = os.path.dirname(path) or "."
  reason = ("it is a folder" if os.path.isdir(path) else
            f"there is no folder {folder!r}" if not os.path.isdir(folder) else
            "no permission" if not os.access(folder, os.W_OK) else None)
  if reason:
    raise InputError(f"cannot write {str(path)!r}: {reason}")


def write_file(path, write):
  """`replace_file`, and says so; an `InputError` if it cannot be written."""
  try:
    replace_file(path, write)
  except OSError as error:
    raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
  print(f"wrote {path}")


def warn(text):
  """A line for the user on stderr."""
  _say("warning", text)


def _say(kind, text):
  print(f"{os.path.basename(sys.argv[0])}: {kind}: {' '.join(str(text).split())}", file=sys.stderr)


def sibling_command(name):
  """How to call another of the programs: `bin/sample` next to `bin/train`, `flowpp-sample` next to
  `flowpp-train`."""
  folder, program = os.path.split(sys.argv[0])
  if program.startswith("flowpp-"):
    return f"flowpp-{name}"
  return os.path.join(os.path.relpath(folder or "."), name)


def define_config_flags():
  """A flag for each field of the model's config, unset unless given."""
  for field in dataclasses.fields(FlowPlusPlusConfig):
    help_text = f"Overrides `{field.name}` of the config, see flowpp_tf/models/config.py."
    if field.type is tuple:
      flags.DEFINE_list(field.name, None, help_text)
    else:
      _OPTIONS[field.type](field.name, None, help_text)


def override_config(config):
  """`config` with the fields that were given as flags."""
  given = {field.name: flags.FLAGS[field.name].value
           for field in dataclasses.fields(config) if flags.FLAGS[field.name].value is not None}
  if "image_shape" in given:
    try:
      given["image_shape"] = tuple(map(int, given["image_shape"]))
    except ValueError:
      raise InputError("`image_shape` must be three integers such as 32,32,3, got "
                       f"{','.join(given['image_shape'])}") from None
  return dataclasses.replace(config, **given)

"""A page for each program, from its docstring and its flags: names, defaults and help texts stand only in the code."""

import importlib.util
import re

from flowpp_tf.programs.commands import COMMANDS
from flowpp_tf.programs.help import describe
from flowpp_tf.programs.options import Flag
from flowpp_tf.programs.run import flags_of


def pages():
  """The text of each page, by its file name in the folder of the reference."""

  def about(command):
    name = f"flowpp_tf.programs.{command}_flags"
    return importlib.import_module(name if importlib.util.find_spec(name) else name.removesuffix("_flags")).__doc__

  texts = {f"programs/{command}.md": page(command, about(command), flags_of(command)) for command in COMMANDS}
  return {"programs/index.md": _index(), **texts}


def _index():
  lines = ["# Commands", "", "`bin/train` in a clone is `flowpp-train` with the package installed, and "]
  lines[-1] += "`python -m flowpp_tf train` anywhere. `--flagfile=FILE` reads flags from a file, one in a line."
  lines += ["", "| command | |", "|---|---|"]
  lines += [f"| [`{command}`]({command}.md) | {what} |" for command, what in COMMANDS.items()]
  return "\n".join([*lines, ""])


def page(command, about, groups):
  """The page of a program, from its docstring and its flags in groups."""
  blocks = re.sub(r"(?m)(?:^(?:bin/|  ).*\n?)+", lambda lines: f"\n```text\n{lines[0].rstrip()}\n```\n", about.strip())
  lines = [f"# {command}", "", blocks]
  for group, flags in groups.items():
    lines += ["", f"## {group}", "", "| flag | default | |", "|---|---|---|", *map(_row, flags)]
  return "\n".join([*lines, ""])


def _row(flag):
  if isinstance(flag, Flag):
    text, _, default = flag.describe().partition(" (default: ")
    return f"| `{flag.title}` | {f'`{default[:-1]}`' if default else ''} | {text.replace('|', chr(92) + '|')} |"
  text, _, default = describe(flag).partition(" (default: ")
  names = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
  default = f"`{default[:-1]}`" if default else f"`{str(flag.default).lower()}`" if flag.default is False else ""
  return f"| `{names}` | {default} | {text.replace('|', chr(92) + '|')} |"

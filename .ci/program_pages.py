"""A page for each program, from its docstring and its flags: names, defaults and help texts stand only in the code."""

import re
import sys

from flowpp_tf.programs.command import flags_of, options_of
from flowpp_tf.programs.commands import COMMANDS

_EXAMPLE = """from flowpp_tf.programs import compress, decompress

compress.run(compress.CompressOptions(preset="photos", images=("my_photos",), output="my_photos.fpp"))
decompress.run(decompress.DecompressOptions("my_photos.fpp", preset="photos", output="my_photos_again"))
"""


def pages():
  """The text of each page, by its file name in the folder of the reference."""
  return {"programs/index.md": _index(), **{f"programs/{command}.md": page(command) for command in COMMANDS}}


def _index():
  lines = ["# Commands", "", "`bin/train` in a clone is `flowpp-train` with the package installed, and "]
  lines[-1] += "`python -m flowpp_tf train` anywhere. `--flagfile=FILE` reads flags from a file, one in a line."
  lines += [
    "",
    "The options of a command are a dataclass, whose fields have the names of the flags. A notebook calls a command",
  ]
  lines += ["without flags:", "", "```python", *_EXAMPLE.splitlines(), "```", "", "| command | |", "|---|---|"]
  lines += [f"| [`{command}`]({command}.md) | {what} |" for command, what in COMMANDS.items()]
  return "\n".join([*lines, ""])


def page(command):
  """The page of a program, from the docstring of its module and the fields of its options."""
  options = options_of(command)
  about = sys.modules[options.__module__].__doc__.strip()
  blocks = re.sub(r"(?m)(?:^(?:bin/|  ).*\n?)+", lambda lines: f"\n```text\n{lines[0].rstrip()}\n```\n", about)
  lines = [f"# {command}", "", blocks]
  for group, flags in flags_of(options).items():
    lines += ["", f"## {group}", "", "| flag | default | |", "|---|---|---|", *map(_row, flags)]
  return "\n".join([*lines, ""])


def _row(flag):
  text, _, default = flag.describe().partition(" (default: ")
  default = f"`{default[:-1]}`" if default else ""
  return f"| `{flag.title}` | {default} | {text.replace('|', chr(92) + '|')} |"

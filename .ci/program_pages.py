"""A page for each program, from its docstring and its flags: names, defaults and help texts stand only in the code."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys

from flowpp_tf.programs.commands import COMMANDS

# Defines the flags of a program, and prints them instead of running it. Each program defines its own: one a process.
_READ = """
import importlib, json, sys
from absl import app, flags
from flowpp_tf.programs import run
app.run = lambda *args, **kwargs: None
program = importlib.import_module(f"flowpp_tf.programs.{sys.argv[1]}")
program.main()
found = []
for module, defined in flags.FLAGS.flags_by_module_dict().items():
  if not module.startswith("flowpp_tf."):
    continue
  for flag in defined:
    group = run._GROUPS.get(flag.name) or run._GROUPS_OF_MODULES.get(module.rpartition(".")[2], "This command")
    values = getattr(flag.parser, "enum_values", None)
    found.append(dict(name=flag.name, boolean=flag.boolean, default=flag.default, help=flag.help, group=group,
                      values=values, type=flag.flag_type()))
print(json.dumps(dict(about=program.__doc__, flags=found)))
"""


def flags_of(command):
  """The docstring of a program, and its flags as dicts."""
  environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
  result = subprocess.run([sys.executable, "-c", _READ, command], capture_output=True, text=True, env=environment)
  if result.returncode:
    raise RuntimeError(f"the flags of {command} cannot be read: {result.stderr}")
  read = json.loads(result.stdout.splitlines()[-1])
  return read["about"], read["flags"]


def pages():
  """The text of each page, by its file name in the folder of the reference."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    read = zip(COMMANDS, pool.map(flags_of, COMMANDS))
    texts = {f"programs/{command}.md": page(command, *found) for command, found in read}
  return {"programs/index.md": _index(), **texts}


def _index():
  lines = ["# Commands", "", "`bin/train` in a clone is `flowpp-train` with the package installed, and "]
  lines[-1] += "`python -m flowpp_tf train` anywhere. `--flagfile=FILE` reads flags from a file, one in a line."
  lines += ["", "| command | |", "|---|---|"]
  lines += [f"| [`{command}`]({command}.md) | {what} |" for command, what in COMMANDS.items()]
  return "\n".join([*lines, ""])


def page(command, about, flags):
  """The page of a program."""
  blocks = re.sub(r"(?m)(?:^(?:bin/|  ).*\n?)+", lambda lines: f"\n```text\n{lines[0].rstrip()}\n```\n", about.strip())
  lines = [f"# {command}", "", blocks]
  groups = {}
  for flag in flags:
    groups.setdefault(flag["group"], []).append(flag)
  for group in sorted(groups, key=lambda group: (group != "This command", list(groups).index(group))):
    lines += ["", f"## {group}", "", "| flag | default | |", "|---|---|---|"]
    lines += [_row(flag) for flag in sorted(groups[group], key=lambda flag: flag["name"])]
  return "\n".join([*lines, ""])


def _row(flag):
  text, default = re.sub("^<.*?>: ", "", " ".join(flag["help"].split())), flag["default"]
  shown = re.search(r" \(default: (.*)\)$", text)
  if shown:
    text, default = text[: shown.start()], shown[1]
  if isinstance(default, list):
    default = ",".join(default)
  names = f"--[no]{flag['name']}" if flag["boolean"] else f"--{flag['name']}"
  if flag["values"]:
    text += f" One of {', '.join(flag['values'])}."
  default = "" if default is None or default == "" else f"`{str(default).lower() if flag['boolean'] else default}`"
  return f"| `{names}` | {default} | {text.replace('|', chr(92) + '|')} |"

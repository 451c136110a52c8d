"""The texts of --help, with the flags that people use, and of --helpfull, with all flags."""

import re
import shutil
import textwrap
import types

from absl import flags

from flowpp_tf.programs.flag_kinds import flags_in_groups, names_of

SHORT = {"help", "h", "?", "helpshort"}
FULL = "helpfull"
_WIDTHS = (40, 120)  # narrower or wider text is hard to read


def asked_for(arguments: list[str]) -> str:
  """Return the flag among the arguments that asks for help, an empty text if there is none."""
  names = [argument.lstrip("-") for argument in arguments if argument.startswith("-")]
  return next((name for name in names if name in SHORT or name == FULL), "")


def help_text(definitions: types.ModuleType, full: bool) -> str:
  """Return the help of a program: its module of flags has the docstring and `COMMON`, the names of the flags in use."""
  width = min(max(shutil.get_terminal_size((100, 0)).columns, _WIDTHS[0]), _WIDTHS[1])
  about, groups = (definitions.__doc__ or "").strip().split("\n\n"), flags_in_groups()
  lines = "\n\n".join(_filled(paragraph, width) for paragraph in (about if full else about[:2])).splitlines() + [""]
  if full:
    for title, found in groups.items():
      lines += [f"{title}:", *(line for flag in found for line in _entry(flag, width)), ""]
    lines.append("--flagfile=FILE reads flags from a file, one in a line. Of a flag given twice the later one counts.")
    return "\n".join(lines)
  known = {flag.name: flag for found in groups.values() for flag in found}
  column = max(len(_name(known[name])) for name in definitions.COMMON) + 4
  for name in definitions.COMMON:
    text = textwrap.wrap(describe(known[name], brief=True), width - column) or [""]
    lines += [f"  {_name(known[name]):{column - 2}}{text[0]}", *(" " * column + line for line in text[1:])]
  return "\n".join([*lines, "", f"--helpfull explains all {len(known)} flags."])


def describe(flag: flags.Flag, brief: bool = False) -> str:
  """Return what a flag does, or only the first sentence of that, with the names that it takes and its default."""
  text = re.sub("^<.*?>: ", "", " ".join(flag.help.split()))  # absl's own list of names goes
  text, _, default = text.partition(" (default: ")
  if brief:
    text = f"{text.partition('. ')[0].removesuffix('.')}."
  if any(not re.search(rf"\b{re.escape(name)}\b", text) for name in names_of(flag)):
    text = f"{text.removesuffix('.')}: {', '.join(names_of(flag))}."
  if not default and flag.default not in (None, "") and not isinstance(flag.default, bool):
    default = f"{','.join(flag.default) if isinstance(flag.default, list) else flag.default})"
  text = text.removesuffix(".") if brief else text
  return f"{text} (default: {default}" if default else text


def _name(flag):
  return f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"


def _entry(flag, width):
  return [f"  {_name(flag)}", *textwrap.wrap(describe(flag), width, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _filled(paragraph, width):
  """A paragraph in the terminal's width; commands and tables keep their lines."""
  kept = re.search(r"(?m)^(bin/|  )", paragraph)
  return paragraph if kept else textwrap.fill(paragraph, width)

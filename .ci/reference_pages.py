"""The pages of the reference: an entry for each public name, on the page of the first room that exports it.

mkdocstrings writes an entry from the docstring. What no docstring has is added: the fields of settings with their
defaults and ranges, the values of constants, and the section of the paper that a file implements, from
docs/architecture.md.
"""

import dataclasses
import importlib
import inspect
import pathlib
import re
import types

import flowpp_tf as fpp
from flowpp_tf.core.settings import Settings

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = {  # title and first line of each page
  "": ("flowpp_tf", "Models in one call: train, load, sample, score, compress, export."),
  "bijectors": ("bijectors", "The mathematics of Flow++ as TFP bijectors."),
  "distributions": ("distributions", "The flow and both dequantizations as TFP distributions."),
  "layers": ("layers", "The networks of Flow++ as Keras layers."),
  "models": ("models", "What builds models from configs, presets, and the release's weights."),
  "config": ("config", "What a run is made of, as data. Nothing here imports TensorFlow."),
  "data": ("data", "Data sets by name, and batches of their images."),
  "training": ("training", "The training loop and its parts."),
  "devices": ("devices", "Strategies over several devices, and workers on several hosts."),
  "evaluation": ("evaluation", "Bits/dim, scores, samples, pictures and curves of a trained model."),
  "bulk": ("bulk", "Functions of batches for engines such as Ray Data, on many machines."),
  "compression": ("compression", "Lossless compression with a model."),
  "posterior.support": ("posterior.support", "Supports of densities: fpp.support."),
  "exporting": ("exporting", "Models as SavedModels, and weights in the format of the release."),
}
# Names that rooms import for themselves.
HELPERS = {"check_arguments", "check_count", "check_shape_of_images", "dataset_entry", "annotations", "TYPE_CHECKING"}
HELPERS |= {"Any", "Path", "Shape"}
IMPORTS = """```python
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import keras
import flowpp_tf as fpp
```"""
PAPER = "[Flow++](https://arxiv.org/abs/1902.00275)"


def public_names(room):
  """The public names of a room, "" for the package, and what they stand for, sorted."""
  module = importlib.import_module(f"flowpp_tf.{room}" if room else "flowpp_tf")
  names = getattr(module, "__all__", None) or dir(module)
  values = {name: getattr(module, name) for name in names if not name.startswith("_") and name not in HELPERS}
  return {
    name: values[name]
    for name in sorted(values, key=lambda name: (not name[0].isupper() or name.isupper(), name.lower()))
    if not isinstance(values[name], types.ModuleType)
  }


def entries():
  """The public path, such as "flowpp_tf.bijectors.Chain", and the value of each entry, by room and name."""
  seen, found = {}, {}
  for room in ROOMS:
    for name, value in public_names(room).items():
      path = ".".join(filter(None, ("flowpp_tf", room, name)))
      found.setdefault(room, {})[name] = seen.setdefault((name, id(value)), path), value
  return found


def pages():
  """The text of each page, by its file name in the folder of the reference."""
  found, sources = entries(), _sources()
  texts = {"index.md": _index(found)}
  for room, (title, intro) in ROOMS.items():
    importing = f"`fpp.{room}`" if room and room in fpp.__all__ else f"`from flowpp_tf import {room}`"
    lines = [f"# {title}", "", f"{intro} {importing if room else '`import flowpp_tf as fpp`'}", ""]
    here = ".".join(filter(None, ("flowpp_tf", room)))
    elsewhere = []
    for name, (path, value) in found[room].items():
      if path == f"{here}.{name}":
        lines += _entry(name, path, value, sources)
      else:
        elsewhere.append(_link(name, path, value))
    lines += ["", f"Also here: {', '.join(elsewhere)}."] if elsewhere else []
    texts[f"{page_name(room)}.md"] = "\n".join([*lines, ""])
  return texts


def page_name(room):
  """The file name of a room's page, without its suffix."""
  return room or "flowpp_tf"


def _index(found):
  """All names in one table."""
  lines = ["# All names", "", IMPORTS, "", "The examples of all names run after these five imports.", ""]
  lines += ["| name | room | |", "|---|---|---|"]
  for room, names in found.items():
    for name, (path, value) in names.items():
      if path == ".".join(filter(None, ("flowpp_tf", room, name))):
        where = f"[{room}]({room}.md)" if room else "[fpp](flowpp_tf.md)"
        lines.append(f"| {_link(name, path, value)} | {where} | {_cell(_first_line(value))} |")
  return "\n".join([*lines, ""])


def _link(name, path, value):
  if callable(value):
    return f"[`{name}`][{path}]"
  room = path.removeprefix("flowpp_tf").removesuffix(name).strip(".")
  return f"[`{name}`]({page_name(room)}.md#{path})"


def _first_line(value):
  if not callable(value):
    return "constant"
  return inspect.getdoc(value).partition("\n\n")[0].replace("\n", " ").rstrip(":")


def _cell(text):
  return str(text).replace("|", "\\|").replace("\n", " ")


def _entry(name, path, value, sources):
  """The lines of an entry."""
  if not callable(value):
    return [f"## {name} {{ #{path} }}", "", *_constant(value), ""]
  lines = [f"::: {path}", "    options:", f"      heading: '{name}'"]
  if inspect.isclass(value) and issubclass(value, Settings):
    # A table instead of a signature in which each default is a call of `setting`; what else there is follows it.
    lines += ["      show_signature: false", "      members: false", "", "**Fields:**", "", *_fields(value), ""]
    for member, of_class in vars(value).items():
      if member[0] != "_" and member not in value.__dataclass_fields__ and inspect.getdoc(of_class):
        lines += [f"::: {path}.{member}", "    options:", "      heading_level: 3", ""]
  file = inspect.getsourcefile(inspect.unwrap(value))
  file = pathlib.Path(file).resolve().relative_to(ROOT) if file else None
  section = sources.get(str(file))
  return [*lines, "", f"Source: {f'{section}; ' if section else ''}`{file}`.", ""]


def _constant(value):
  if isinstance(value, dict):
    return [", ".join(f"`{_cell(key)}`" for key in value)]
  return [f"`{value!r}`"]


def _fields(settings):
  """A table of the fields of a class of settings."""
  lines = ["| field | type | default | values | |", "|---|---|---|---|---|"]
  for field in dataclasses.fields(settings):
    kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    default = "required" if field.default is dataclasses.MISSING else f"`{_cell(repr(field.default))}`"
    allowed, help_text = field.metadata.get("range"), field.metadata.get("help", "")
    cells = f"`{field.name}`", f"`{_cell(kind)}`", default, _cell(allowed.expected if allowed else ""), _cell(help_text)
    lines.append(f"| {' | '.join(cells)} |")
  return lines


def _sources():
  """The section of the paper, by file: of the first table row of docs/architecture.md that names it."""
  text = (ROOT / "docs" / "architecture.md").read_text().partition("## The paper in the code")[2].partition("\n## ")[0]
  found = {}
  for line in text.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    for file in re.findall(r"\]\(\.\./(flowpp_tf/[\w/.]+)\)", line):
      found.setdefault(file, _section(cells[0]))
  if not found:
    raise ValueError("docs/architecture.md has no table of the paper's sections")
  return found


def _section(text):
  """Return the source that a row names: a section of the paper, or another paper."""
  if re.match(r"[\d.]", text):
    return f"{PAPER}, section {text}"
  return f"{PAPER}, {text}" if text == "appendix" else text

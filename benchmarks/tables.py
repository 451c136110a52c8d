"""What the benchmarks store, print and write, and the tables and figures of the pages that show it."""

import json
import pathlib
import re

import numpy as np

RESULTS = pathlib.Path(__file__).resolve().parent / "results.json"

_PLACE = re.compile(r"(<!-- (table|figure) (\w+) -->)(.*?)(<!-- end -->)", re.DOTALL)


def stored_results():
  """Return what results.json holds, by part."""
  return json.loads(RESULTS.read_text())


def results(stored, part):
  """Return what the commands of a part wrote, in order."""
  return [entry["result"] for entry in stored[part]["runs"]]


def standard_error(values):
  """Return the standard error of the mean of values; 0 of a single one."""
  return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def print_table(rows):
  """Print rows of equal keys as aligned text."""
  text = [list(rows[0])] + [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
  widths = [max(map(len, column)) for column in zip(*text)]
  for line in text:
    print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)))
  print(flush=True)


def write_json(path, results):
  """Write the results, if there is a path."""
  if path:
    with open(path, "w") as file:
      json.dump(results, file, indent=2)


def markdown(rows):
  """Return rows of text, the first the head, as a Markdown table."""
  lines = ["| " + " | ".join(row) + " |" for row in rows]
  return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def filled(pages, tables, figures):
  """Return pages with each table between `<!-- table NAME -->` and `<!-- end -->`, and figures in the same way.

  Args:
    pages: `dict` of texts by their path.
    tables: `dict` of Markdown tables by their name.
    figures: `dict` of texts by their name; a figure is a part of a line.

  Returns:
    The new texts, as `pages`.

  Raises:
    ValueError: if a table has no place in any page, a place no table or figure, or a place no end.
  """
  content = {"table": {name: f"\n{table}\n" for name, table in tables.items()}, "figure": figures}
  placed = set()
  for path, text in pages.items():
    found = _PLACE.findall(text)
    if text.count("<!-- figure ") + text.count("<!-- table ") != len(found):
      raise ValueError(f"{path} has a table or figure without '<!-- end -->'")
    for _, kind, name, old, _ in found:
      if name not in content[kind]:
        raise ValueError(f"{path} has a place for a {kind} {name!r}, which is none of {', '.join(content[kind])}")
      if kind == "figure" and "\n" in old:
        raise ValueError(f"{path} has a figure {name!r} without '<!-- end -->' in its line")
      placed.add((kind, name))
  for name in tables:
    if ("table", name) not in placed:
      raise ValueError(f"no place for a table marked '<!-- table {name} -->' in {' or '.join(map(str, pages))}")
  replace = lambda match: match[1] + content[match[2]][match[3]] + match[5]
  return {path: _PLACE.sub(replace, text) for path, text in pages.items()}

"""What the benchmarks print and write, and the tables of the pages that show it."""

import json
import re

_FIGURE = re.compile(r"(<!-- figure (\w+) -->)(.*?)(<!-- end -->)")
_PLACE = re.compile(r"(<!-- table (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def print_table(rows):
  """Rows of equal keys as aligned text."""
  text = [list(rows[0])] + [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
  widths = [max(map(len, column)) for column in zip(*text)]
  for line in text:
    print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)))
  print(flush=True)


def write_json(path, results):
  """The results, if there is a path."""
  if path:
    with open(path, "w") as file:
      json.dump(results, file, indent=2)


def markdown(rows):
  """Rows of text, the first the head, as a Markdown table."""
  lines = ["| " + " | ".join(row) + " |" for row in rows]
  return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def with_tables(pages, tables):
  """Pages with each table between its two marks, `<!-- table NAME -->` and `<!-- end -->`.

  Args:
    pages: `dict` of texts by their path.
    tables: `dict` of Markdown tables by their name.

  Returns:
    The new texts, as `pages`.

  Raises:
    ValueError: if a table has no place in any page, or a place no table.
  """
  places = {path: [name for _, name, _, _ in _PLACE.findall(text)] for path, text in pages.items()}
  for name in tables:
    if not any(name in names for names in places.values()):
      raise ValueError(
        f"no place for a table marked '<!-- table {name} -->' and '<!-- end -->' in {' or '.join(map(str, pages))}"
      )
  for path, names in places.items():
    for name in names:
      if name not in tables:
        raise ValueError(f"{path} has a place for a table {name!r}, which is none of {', '.join(tables)}")
  return {
    path: _PLACE.sub(lambda match: match[1] + tables[match[2]] + "\n" + match[4], text) for path, text in pages.items()
  }


def with_figures(pages, figures):
  """Pages with each figure between its two marks, `<!-- figure NAME -->` and `<!-- end -->`, in a sentence or a cell.

  Args:
    pages: `dict` of texts by their path.
    figures: `dict` of texts by their name.

  Returns:
    The new texts, as `pages`.

  Raises:
    ValueError: if a place has no figure.
  """
  for path, text in pages.items():
    for _, name, _, _ in _FIGURE.findall(text):
      if name not in figures:
        raise ValueError(f"{path} has a place for a figure {name!r}, which is none of {', '.join(sorted(figures))}")
    if text.count("<!-- figure ") != len(_FIGURE.findall(text)):
      raise ValueError(f"{path} has a figure without '<!-- end -->' in its line")
  return {
    path: _FIGURE.sub(lambda match: match[1] + figures[match[2]] + match[4], text) for path, text in pages.items()
  }

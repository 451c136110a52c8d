"""The files that an image passes into an archive and out of it, as docs/architecture.md lists them with their lines.

python tests/docs/test_way_of_an_image.py     # writes the lines into the page again
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
ROW = re.compile(r"\| \[[\w/.]+\]\(\.\./([\w/.]+)\) \| (?:`([\w.]+)`, line (\d+) )?\|")
MOST_FILES = 16


def section():
  """The text of the page about it."""
  return PAGE.read_text().partition("\n## From a file to the stack\n")[2].partition("\n## ")[0]


def ways():
  """The rows of the tables, file, function and line, by the program where they begin."""
  found = {"compress": [], "decompress": []}
  for line in section().splitlines():
    if row := ROW.match(line):
      if row[1].startswith("bin/"):
        program = row[1].removeprefix("bin/")
      found[program].append(row)
  return found


def line_of(path, name):
  """The line where a function or a method `Class.method` is defined."""
  tree = ast.parse((ROOT / path).read_text())
  for part in name.split("."):
    (tree,) = [node for node in tree.body if getattr(node, "name", None) == part]
  return tree.lineno


@pytest.mark.parametrize("program", ["compress", "decompress"])
def test_an_image_passes_at_most_16_files_which_begin_where_the_page_says(program):
  rows = ways()[program]
  assert 10 < len({row[1] for row in rows}) == len(rows) <= MOST_FILES
  for row in rows[1:]:
    assert int(row[3]) == line_of(row[1], row[2]), f"{row[1]} {row[2]}: python tests/docs/test_way_of_an_image.py"


if __name__ == "__main__":

  def renewed(row):
    return row[0].replace(f"line {row[3]} ", f"line {line_of(row[1], row[2])} ") if row[2] else row[0]

  PAGE.write_text(PAGE.read_text().replace(section(), ROW.sub(renewed, section())))

"""What the benchmarks print and write."""

import json


def print_table(rows):
  """Rows of equal keys as aligned text."""
  text = [list(rows[0])] + [
      [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
  widths = [max(map(len, column)) for column in zip(*text)]
  for line in text:
    print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)))
  print(flush=True)


def write_json(path, results):
  """The results, if there is a path."""
  if path:
    with open(path, "w") as file:
      json.dump(results, file, indent=2)

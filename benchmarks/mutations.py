"""Do the tests notice when the code is wrong? Small changes of it, drawn by a seed, and the tests that fail for each.

    python benchmarks/mutations.py --count=30 --seed=0 --output=mutations.jsonl

Each change is one of an operator, a sign, a comparison, a number or a term of a sum, at a place drawn among all such
places in the rooms of the mathematics, training and the codec. It is made in a copy of the tree, where README's tests
run until the first one fails, those of its own room first; if none does, the slow ones. With `--no-slow` such a change
is not recorded, and a later run with the same output tries it again. Changes that change nothing a caller can see are
listed in `EQUIVALENT` with the reason, and the next ones drawn take their place.
"""

import argparse
import ast
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("bijectors", "layers", "training", "compression")
EQUIVALENT: dict[str, str] = {}  # "file:line:column: change": why nothing that a caller sees is different

_SWAPS = {
  ast.Add: "-",
  ast.Sub: "+",
  ast.Mult: "/",
  ast.Div: "*",
  ast.FloorDiv: "*",
  ast.Lt: "<=",
  ast.LtE: "<",
  ast.Gt: ">=",
  ast.GtE: ">",
  ast.Eq: "!=",
  ast.NotEq: "==",
  ast.And: "or",
  ast.Or: "and",
}


class _Sites(ast.NodeVisitor):
  """The places of a file where a change is made: (first and last offset, new text)."""

  def __init__(self, text):
    self.text, self.found = text, []
    self._starts = [0]
    for line in text.encode().splitlines(keepends=True):
      self._starts.append(self._starts[-1] + len(line))

  def _span(self, node):
    return (self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset)

  def _source(self, node):
    start, end = self._span(node)
    return self.text.encode()[start:end].decode()

  def _add(self, node, new):
    self.found.append((*self._span(node), f"({new})"))

  def visit_BinOp(self, node):
    a, b = self._source(node.left), self._source(node.right)
    texts = [
      part
      for part in (node.left, node.right)
      if isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str | bytes)
    ]  # parts of paths and messages
    if type(node.op) in _SWAPS and not texts:
      self._add(node, f"({a}) {_SWAPS[type(node.op)]} ({b})")
      if isinstance(node.op, ast.Add | ast.Sub):
        self._add(node, a)
    self.generic_visit(node)

  def visit_UnaryOp(self, node):
    if isinstance(node.op, ast.USub | ast.Not):
      self._add(node, self._source(node.operand))
    self.generic_visit(node)

  def visit_Compare(self, node):
    if len(node.ops) == 1 and type(node.ops[0]) in _SWAPS:
      self._add(node, f"({self._source(node.left)}) {_SWAPS[type(node.ops[0])]} ({self._source(node.comparators[0])})")
    self.generic_visit(node)

  def visit_BoolOp(self, node):
    self._add(node, f" {_SWAPS[type(node.op)]} ".join(f"({self._source(value)})" for value in node.values))
    self.generic_visit(node)

  def visit_Constant(self, node):
    if type(node.value) in (int, float):
      self._add(node, repr(node.value + 1 if isinstance(node.value, int) else node.value * 1.1))

  def visit_FunctionDef(self, node):  # no annotations and decorators
    for default in filter(None, [*node.args.defaults, *node.args.kw_defaults]):
      self.visit(default)
    for statement in node.body:
      self.visit(statement)

  def visit_AnnAssign(self, node):
    if node.value:
      self.visit(node.value)

  def visit_JoinedStr(self, node):  # texts of messages
    pass

  def visit_Raise(self, node):
    pass


def sites():
  """Return all changes as (file, first offset, last offset, new text, name)."""
  found = []
  for room in ROOMS:
    for path in sorted((ROOT / "flowpp_tf" / room).rglob("*.py")):
      text = path.read_text()
      visitor = _Sites(text)
      visitor.visit(ast.parse(text))
      for start, end, new in visitor.found:
        before = text.encode()[:start]
        line, column = before.count(b"\n") + 1, start - before.rfind(b"\n")
        old = " ".join(text.encode()[start:end].decode().split())
        file = path.relative_to(ROOT).as_posix()
        found.append((file, start, end, new, f"{file}:{line}:{column}: {old} -> {' '.join(new.split())}"))
  return found


def first_failure(site, slow=True):
  """Make a change in a copy of the tree; return the part of the tests that fails, and the first test that does."""
  file, start, end, new, name = site
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "tree"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "runs", "*.egg-info", "__pycache__"))
    text = (copy / file).read_bytes()
    (copy / file).write_bytes(text[:start] + new.encode() + text[end:])
    room = f"tests/{file.split('/')[1]}"
    slow_runs = [("slow", ["-m", "slow", room]), ("slow", ["-m", "slow", "tests"])] if slow else []
    for part, arguments in (("quick", [room]), ("quick", ["tests"]), *slow_runs):
      result = subprocess.run(
        [
          sys.executable,
          "-m",
          "pytest",
          "-x",
          "-q",
          "--no-header",
          "-p",
          "no:randomly",
          "-p",
          "no:cacheprovider",
          *arguments,
        ],
        cwd=copy,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(copy)},
      )
      if result.returncode not in (0, 5):
        failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return {"change": name, "caught": part, "by": failed[0] if failed else result.stdout[-300:]}
  return {"change": name, "caught": "", "by": ""}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--count", type=int, default=30)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--jobs", type=int, default=os.cpu_count())
  parser.add_argument("--slow", action=argparse.BooleanOptionalAction, default=True)
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("mutations.jsonl"))
  parser.add_argument("--list", action="store_true", help="Only list the changes.")
  options = parser.parse_args()
  drawn = sites()
  random.Random(options.seed).shuffle(drawn)
  drawn = [site for site in drawn if site[-1] not in EQUIVALENT][: options.count]
  if options.list:
    print("\n".join(site[-1] for site in drawn))
    return
  done = (
    {json.loads(line)["change"] for line in options.output.read_text().splitlines()}
    if (options.output.exists())
    else set()
  )  # from a run that was stopped
  with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool, options.output.open("a") as file:
    for result in pool.map(
      lambda site: first_failure(site, options.slow), [site for site in drawn if site[-1] not in done]
    ):
      print(f"{result['caught'] or 'SURVIVED':<9}{result['change']}  {result['by'][:120]}", flush=True)
      if not result["caught"] and not options.slow:
        continue
      file.write(json.dumps(result) + "\n")
      file.flush()
  results = [json.loads(line) for line in options.output.read_text().splitlines()]
  results = [result for result in results if result["change"] in {site[-1] for site in drawn}]
  caught = [sum(result["caught"] in parts for result in results) for parts in (("quick",), ("quick", "slow"))]
  print(f"of {len(drawn)} changes the quick tests notice {caught[0]}, all tests {caught[1]}")


if __name__ == "__main__":
  main()

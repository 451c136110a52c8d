"""Every public function and method of the package is annotated, by its source."""

import ast

import pytest

from support.programs import ROOT

PACKAGE = ROOT / "flowpp_tf"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def public_functions(tree, of_class=False):
  """Functions of a module and methods of its classes, without those inside of functions."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
      yield from public_functions(node, of_class=True)
    elif isinstance(node, ast.FunctionDef) and (
      not node.name.startswith("_") or (of_class and node.name == "__init__")
    ):
      yield node


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_public_function_is_annotated(path):
  missing = []
  for function in public_functions(ast.parse((PACKAGE / path).read_text())):
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    missing += [
      f"{function.name}({a.arg})"
      for a in every
      if a is not None and a.annotation is None and a.arg not in ("self", "cls")
    ]
    if function.returns is None and function.name != "__init__":
      missing.append(f"{function.name} ->")
  assert not missing

"""The rooms of the package stand on floors: a room imports rooms of lower floors only. All that is public is annotated.

It is read from the text, unimported.
"""

import ast
import functools
import graphlib
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parent.parent / "flowpp_tf"
# From the lowest floor to the highest.
FLOORS = (
  ("types", "version"),
  ("core",),
  ("io", "config", "tiles", "bijectors", "layers.kernels"),
  ("layers", "distributions", "data", "devices", "pretrained"),
  ("posterior",),
  ("models",),
  ("evaluation", "training", "compression", "exporting"),
  ("bulk", "demo", "compression.files"),
  ("programs",),
  ("__main__", "__init__"),
)
AT_THE_ROOT = {"__init__", "__main__", "types", "version"}


def room_of(module):
  """The room of a module `a.b.c`: its folder; at the root it is one of its own."""
  return module.rpartition(".")[0] or module


@functools.cache
def modules():
  """The trees of all modules by name; that of a folder's own module ends in `__init__`."""
  return {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
  }


def imports(module):
  """The modules of the package that a module imports anywhere, for types too, with their lines."""
  names = {*modules()}
  for node in ast.walk(modules()[module]):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f"{module}:{node.lineno}: a relative import"
      full = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
      full = [alias.name for alias in node.names]
    else:
      continue
    for name in full:
      if name.split(".")[0] != PACKAGE.name:
        continue
      path = name.partition(".")[2]
      while path and path not in names and f"{path}.__init__" not in names:
        path = path.rpartition(".")[0]  # a name in a module
      yield (path if path in names else f"{path}.__init__".lstrip(".")), node.lineno


def test_every_room_is_on_a_floor_and_the_root_has_no_loose_modules():
  rooms = {room_of(module) for module in modules()}
  assert rooms == {room for floor in FLOORS for room in floor}
  assert {module for module in modules() if "." not in module} == AT_THE_ROOT
  assert len(rooms) <= 25 and len(FLOORS) <= 10


def test_no_import_goes_up():
  floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
  wrong = [
    f"{module}:{line} imports {other}"
    for module in modules()
    for other, line in imports(module)
    if room_of(module) != room_of(other) and floor_of[room_of(module)] <= floor_of[room_of(other)]
  ]
  assert not wrong, wrong


def test_no_modules_import_each_other_in_a_circle():
  others = {module: {other for other, _ in imports(module)} - {module} for module in modules()}
  graphlib.TopologicalSorter(others).prepare()  # raises a `CycleError` with the circle


def test_no_function_of_a_package_has_the_name_of_a_module_in_it():
  """`import flowpp_tf.models.presets` would make the function `flowpp_tf.models.presets` a module."""
  for module, tree in modules().items():
    if not module.endswith("__init__"):
      continue
    names = {
      alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    folder = PACKAGE / module.replace(".", "/")
    inside = {path.stem for path in folder.parent.iterdir() if path.is_dir() or path.suffix == ".py"}
    imported_as_modules = {
      other.removesuffix(".__init__").rpartition(".")[2]
      for other, _ in imports(module)
      if other.removesuffix(".__init__") in {f"{room_of(module)}.{name}".removeprefix("__init__.") for name in names}
    }
    assert not (names & inside) - imported_as_modules, (module, names & inside)


def test_no_annotation_any_stands_for_a_class_of_the_package():
  """Where a docstring says that an argument is one of our classes, so does the annotation."""
  classes = {node.name for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
  wrong = []
  for module, tree in modules().items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        bodies = [node]
      elif isinstance(node, ast.ClassDef):
        bodies = [part for part in node.body if getattr(part, "name", "") == "__init__"]
      else:
        continue
      for function in bodies:
        text = (ast.get_docstring(node) or "") + "\n" + (ast.get_docstring(function) or "")
        for argument in [*function.args.args, *function.args.kwonlyargs]:
          annotation = argument.annotation and ast.unparse(argument.annotation)
          said = re.search(rf"^ *{argument.arg}: (?:an? )?`(?:\w+\.)?(\w+)`", text, re.MULTILINE)
          if said and said[1] in classes and annotation and "Any" in annotation.split(" | "):
            wrong.append(f"{module}:{argument.lineno} {argument.arg}: {annotation} is a {said[1]}")
  assert not wrong, wrong


def public_functions(tree, of_class=False):
  """Functions of a module and methods of its classes, without those inside of functions."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
      yield from public_functions(node, of_class=True)
    elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or of_class and node.name == "__init__"):
      yield node


def test_every_public_function_is_annotated():
  missing = []
  for module, tree in modules().items():
    for function in public_functions(tree):
      arguments = function.args
      every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
      bare = [a.arg for a in every if a and a.annotation is None and a.arg not in ("self", "cls")]
      missing += [f"{module}.{function.name}({name})" for name in bare]
      if function.returns is None and function.name != "__init__":
        missing.append(f"{module}.{function.name} ->")
  assert not missing

"""Recipes: the flags of a whole experiment, configs/NAME.flags in a clone, which the package has too.

`bin/train --config=digits` begins with the flags of configs/digits.flags; other flags replace them.
"""

import pathlib

_HERE = pathlib.Path(__file__).parent.parent
_FOLDERS = (_HERE / "configs", _HERE.parent / "configs")  # of the installed package, of a clone


def recipes() -> list[str]:
  """Return the names of the recipes.

  Example:
    >>> "cifar10" in fpp.recipes()
    True
  """
  return sorted(path.stem for path in _folder().glob("*.flags"))


def read_recipe(name: str) -> dict[str, str]:
  """Return the flags of a recipe by name; `{}` if there is no such recipe.

  Args:
    name: of a config, such as "cifar10".
  """
  path = _folder() / f"{name}.flags"
  if name not in recipes():
    return {}
  lines = [line.strip() for line in path.read_text().splitlines()]
  pairs = [line.removeprefix("--").partition("=") for line in lines if line.startswith("--")]
  return {flag: value if equals else "true" for flag, equals, value in pairs}


def without_replaced(recipe: dict[str, str], given: dict[str, str]) -> dict[str, str]:
  """Return the flags of a recipe that the given ones leave standing: `--epochs` replaces its `--steps`, and so on."""
  in_pieces = lambda flags: ":" in flags.get("schedule", "")  # such a schedule says all itself
  replaced = {*given}
  if replaced & {"steps", "epochs"}:
    replaced |= {"steps", "epochs"}
  if in_pieces(given):
    replaced |= {"learning_rate", "warmup_steps"}
  if in_pieces(recipe) and replaced & {"learning_rate", "warmup_steps"}:
    replaced |= {"schedule"}
  return {name: value for name, value in recipe.items() if name not in replaced}


def _folder():
  return next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])

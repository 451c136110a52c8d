"""What names of earlier versions are now."""

from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
  """Return the `__getattr__` of a module, whose error for an old name says the new one.

  Args:
    module: `__name__` of the module.
    names: the new name by the old one; that of another module with its package.
  """

  def get_attribute(name: str) -> Any:
    if name in names:  # no AttributeError, which `from module import name` would replace by one of its own
      new = names[name] if "." in names[name] else f"{module}.{names[name]}"
      raise ImportError(f"`{module}.{name}` is now `{new}`")
    raise AttributeError(f"module {module!r} has no attribute {name!r}")

  return get_attribute

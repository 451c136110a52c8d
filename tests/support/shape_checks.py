"""Plugin: the shapes in types hold. Each function of the package with such a type is checked by each eager call.

In graphs sizes may be unknown, so that calls there are not checked. Only the types of jaxtyping are: wrong arguments of
other kinds are errors of the package, which have their own tests.
"""

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import typing

import beartype
import jaxtyping
import tensorflow as tf

import flowpp_tf

ROOMS = ("bijectors", "layers", "distributions", "models")
_suspended: list[bool] = []


@contextlib.contextmanager
def suspended():
  """Within this context nothing is checked, as for users."""
  _suspended.append(True)
  try:
    yield
  finally:
    _suspended.pop()


def has_shape(hint):
  """Whether a type is one of jaxtyping, or made of such types."""
  return (
    isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray) or any(map(has_shape, typing.get_args(hint)))
  )


def checked(function):
  """Return a function whose eager calls are checked, or the same one if its types have no shapes."""
  try:
    hints = {name: hint for name, hint in inspect.get_annotations(function, eval_str=True).items() if has_shape(hint)}
  except NameError:  # a type that is imported for type checkers only
    hints = {}
  if not hints:
    return function
  bare = functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))
  bare.__annotations__ = hints
  bare.__signature__ = _only(inspect.signature(function), hints)
  strict = jaxtyping.jaxtyped(bare, typechecker=beartype.beartype)

  @functools.wraps(function)
  def call(*args, **kwargs):
    return (strict if tf.executing_eagerly() and not _suspended else function)(*args, **kwargs)

  return call


def _only(signature, hints):
  """A signature with no types but the given ones."""
  parameters = [p.replace(annotation=hints.get(p.name, inspect.Parameter.empty)) for p in signature.parameters.values()]
  return signature.replace(parameters=parameters, return_annotation=hints.get("return", inspect.Signature.empty))


def modules():
  """The modules of `ROOMS`."""
  for room in ROOMS:
    package = importlib.import_module(f"flowpp_tf.{room}")
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
      yield importlib.import_module(info.name)


def install():
  """Check every function and method of the rooms, wherever it has been imported; return how many."""
  replaced = {}
  for module in modules():
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    for value in own:
      if inspect.isfunction(value):
        replaced[value] = checked(value)
      elif inspect.isclass(value):
        for name, method in list(vars(value).items()):
          if inspect.isfunction(method) and checked(method) is not method:
            setattr(value, name, checked(method))
            replaced[method] = vars(value)[name]
  for module in [module for name, module in sys.modules.items() if name.split(".")[0] == flowpp_tf.__name__]:
    for name, value in list(vars(module).items()):
      if inspect.isfunction(value) and value in replaced:
        setattr(module, name, replaced[value])
  return sum(new is not old for old, new in replaced.items())


CHECKED = install()

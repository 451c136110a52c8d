"""Every public name has an example in its docstring; it runs after five imports and prints what it says."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp

pytestmark = pytest.mark.docs

MODULES = (fpp, fpp.bijectors, fpp.distributions, fpp.layers)
IMPORTED = {"np": np, "tf": tf, "tfp": tfp, "keras": keras, "fpp": fpp}


def public_names():
  """The classes and functions of the modules above, by name."""
  found = {}
  for module in MODULES:
    for name in getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]:
      value = getattr(module, name)
      if callable(value) and not isinstance(value, types.ModuleType):
        found[name] = value
  return found


def with_examples():
  """Everything of the package whose docstring has examples, methods too, by name."""
  found = {}
  for info in pkgutil.walk_packages(fpp.__path__, "flowpp_tf."):
    if info.name.endswith("__main__"):
      continue
    module = importlib.import_module(info.name)
    mine = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == info.name}
    classes = [(name, value) for name, value in mine.items() if inspect.isclass(value)]
    mine |= {f"{name}.{method}": function for name, value in classes for method, function in vars(value).items()}
    found |= {name: value for name, value in mine.items() if "Examples:" in (_own_docstring(value) or "")}
  return found


def _own_docstring(value):
  value = getattr(value, "__func__", value)  # of a class method
  return vars(value).get("__doc__") if inspect.isclass(value) else getattr(inspect.unwrap(value), "__doc__", None)


# Texts that are replaced to save time.
SHORTER = {
  ", 500,": ", 2,",
  "fpp.vector_flow(2)": "fpp.vector_flow(2, couplings=1, blocks=1)",
  "fpp.VectorFlow(2)": "fpp.VectorFlow(2, couplings=1, blocks=1)",
  'fpp.FlowPlusPlus(fpp.get_config("digits"))': "fpp.FlowPlusPlus(SMALLER)",
  'fpp.train("digits", "digits", "runs/digits")': (
    'fpp.train("digits", SMALLER, "runs/digits", steps=1, verbose=False, tensorboard=())'
  ),
}
SMALLER = dataclasses.replace(
  fpp.get_config("digits"),
  structure="columns:1",
  dequant_structure="columns:1",
  filters=4,
  components=2,
  dequant_filters=4,
  context_channels=4,
  attention=False,
)


@pytest.mark.parametrize("name", sorted(public_names()))
def test_every_public_name_has_an_example(name):
  assert "\nExamples:\n  >>> " in inspect.cleandoc(inspect.unwrap(public_names()[name]).__doc__)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")  # which Keras saves, and says so
@pytest.mark.parametrize("name", sorted(with_examples()))
def test_the_example_prints_what_it_says(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = inspect.cleandoc(_own_docstring(with_examples()[name]))
  assert text.count("Examples:") == 1
  text = text.partition("Examples:")[2]
  for long, short in SHORTER.items():
    text = text.replace(long, short)
  failures = []
  runner = doctest.DocTestRunner(verbose=False)
  examples = doctest.DocTestParser().get_doctest(text, IMPORTED | {"SMALLER": SMALLER}, name, None, None)
  runner.run(examples, out=failures.append)
  assert not failures, "".join(failures)

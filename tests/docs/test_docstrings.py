"""Every public name has an example in its docstring; it runs after five imports and prints what it says."""

import dataclasses
import doctest
import functools
import importlib
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.core.settings import Settings
from support.programs import ROOT, load_file
from support.public_callables import surface
from support.runs import TINY_MODEL

pytestmark = pytest.mark.docs

IMPORTED = {"np": np, "tf": tf, "tfp": tfp, "keras": keras, "fpp": fpp}


@functools.cache
def reference():
  """The module that lists what has an entry in the reference."""
  return load_file(".ci/reference_pages.py")


@functools.cache
def public_names():
  """The classes and functions that have an entry in the reference, by path."""
  found = {path: value for names in reference().entries().values() for path, value in names.values()}
  return {path: value for path, value in found.items() if callable(value)}


@functools.cache
def with_examples():
  """Everything of the package whose docstring has examples, methods too, by name."""
  found = {}
  for path in sorted((ROOT / "flowpp_tf").rglob("*.py")):
    if "Examples:" not in path.read_text():  # importing some of these takes seconds
      continue
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    mine = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    classes = [(name, value) for name, value in mine.items() if inspect.isclass(value)]
    methods = {f"{name}.{method}": value for name, cls in classes for method, value in vars(cls).items()}
    mine |= {name: value for name, value in methods.items() if _is_ours(value)}
    found |= {name: value for name, value in mine.items() if "Examples:" in (_own_docstring(value) or "")}
  return found


def _is_ours(method):
  """Whether a method has been written here: a class may have functions of a library as its own."""
  function = getattr(method, "__func__", getattr(method, "fget", method))
  return (getattr(function, "__module__", None) or "flowpp_tf").startswith("flowpp_tf")


def _own_docstring(value):
  value = getattr(value, "__func__", value)  # of a class method
  return vars(value).get("__doc__") if inspect.isclass(value) else getattr(inspect.unwrap(value), "__doc__", None)


# Texts that are replaced to save time.
SHORTER = {
  'dataclasses.replace(fpp.get_config("digits"), levels=256': "dataclasses.replace(SMALLER, levels=256",
  ", 500,": ", 2,",
  "fpp.vector_flow(2)": "fpp.vector_flow(2, couplings=1, blocks=1)",
  "fpp.VectorFlow(2)": "fpp.VectorFlow(2, couplings=1, blocks=1)",
  'config, training = fpp.get_config("digits"), TrainingConfig(steps=500': (
    "config, training = SMALLER, TrainingConfig(steps=1"
  ),
  "enable_determinism()": "None",  # which would be that of all tests that follow
  'fpp.FlowPlusPlus(fpp.get_config("digits"))': "fpp.FlowPlusPlus(SMALLER)",
  'fpp.train("digits", "digits", "runs/digits")': (
    'fpp.train("digits", SMALLER, "runs/digits", steps=1, verbose=False, tensorboard=())'
  ),
}
SMALLER = dataclasses.replace(fpp.get_config("digits"), **TINY_MODEL)


PRESET = 'fpp.FlowPlusPlus.from_preset("digits")'
OF_THE_PRESET = ("CompressImages", "InitialWeights")  # others print no more than shapes, which an untrained model has


@functools.cache
def untrained():
  """A model of digits, which no example changes much."""
  return fpp.FlowPlusPlus(SMALLER)


@pytest.mark.parametrize("name", sorted(public_names()))
def test_every_public_name_has_an_example(name):
  assert "\nExamples:\n  >>> " in inspect.cleandoc(inspect.unwrap(public_names()[name]).__doc__)


def test_the_reference_lists_all_that_is_public():
  listed = {value.__name__ for value in public_names().values()}
  helpers = surface.WITHOUT_ROWS["helpers of the package, no part of the room"].split()
  assert set(helpers) <= reference().HELPERS
  assert {name.partition(".")[0] for name in surface.public_callables()} - listed == set(helpers)


@pytest.mark.parametrize("name", sorted(public_names()))
def test_every_field_of_a_record_is_described(name):
  value = public_names()[name]
  fields = getattr(value, "_fields", None) or [f.name for f in getattr(value, "__dataclass_fields__", {}).values()]
  if hasattr(value, "__post_init__") and issubclass(value, Settings):
    assert all(field.metadata["help"] for field in dataclasses.fields(value))  # a table in the reference
  elif inspect.isclass(value) and fields:
    described = inspect.cleandoc(value.__doc__).partition("\nAttributes:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (\w+):", described, re.MULTILINE) == list(fields)


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
  if name not in OF_THE_PRESET:
    text = text.replace(PRESET, "untrained()")
  failures = []
  runner = doctest.DocTestRunner(verbose=False)
  names = IMPORTED | {"SMALLER": SMALLER, "untrained": untrained}
  examples = doctest.DocTestParser().get_doctest(text, names, name, None, None)
  runner.run(examples, out=failures.append)
  assert not failures, "".join(failures)

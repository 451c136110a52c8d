"""Every public name has an example in its docstring, which runs and prints what it says."""

import dataclasses
import doctest
import functools
import inspect
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.data import load_dataset

pytestmark = pytest.mark.docs

MODULES = (fpp, fpp.bijectors, fpp.distributions, fpp.layers)


def public_names():
  """The classes and functions of the modules above by name, and the methods with an example of their own."""
  found = {}
  for module in MODULES:
    for name in getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]:
      value = getattr(module, name)
      if callable(value) and not isinstance(value, types.ModuleType):
        found[name] = value
  return found


def with_methods(names):
  for name, value in names.items():
    yield name, value
    for method, function in vars(value).items() if inspect.isclass(value) else ():
      if not method.startswith("_") and "Example:" in (inspect.getdoc(function) or ""):
        yield f"{name}.{method}", function


@functools.cache
def model():
  """A model of digits with few weights."""
  return fpp.FlowPlusPlus(
    dataclasses.replace(
      fpp.get_config("digits"),
      structure="columns:1",
      dequant_structure="columns:1",
      filters=4,
      components=2,
      dequant_filters=4,
      context_channels=4,
      attention=False,
    )
  )


@pytest.fixture
def namespace():
  """What examples may use without saying where it is from."""
  network = fpp.layers.DenseConditioner(3, 3 * fb.num_parameters("affine", 0), hidden=4, context_size=3)
  free = fpp.layers.DenseConditioner(3, 3 * fb.num_parameters("affine", 0), hidden=4)
  x = tf.random.stateless_normal([64, 2], (0, 1))
  return {
    **vars(fpp.distributions),
    "fpp": fpp,
    "fb": fb,
    "tf": tf,
    "tfp": tfp,
    "tfb": tfp.bijectors,
    "tfd": tfp.distributions,
    "keras": keras,
    "np": np,
    "EvalContext": EvalContext,
    "dataclasses": dataclasses,
    "x": x,
    "model": model(),
    "images": load_dataset("digits").test[:2],
    "flow": fpp.vector_flow(2, couplings=1, hidden=4),
    "coupling": fb.Coupling(free, fb.affine_coupling_bijector, event_ndims=1),
    "conditional": fb.Coupling(network, fb.affine_coupling_bijector, event_ndims=1),
    "scale": tf.ones(6),
    "bias": tf.zeros(6),
  }


# Names that an example takes to be something else.
OTHERS = {
  "Chain": lambda names: {"x": tf.zeros([2, 6])},
  "Conditioned": lambda names: {"coupling": names["conditional"]},
}
# Examples that load what another one exports.
LOADING = ("load_saved_model", "load_official_weights")
# Texts that are replaced to save time.
SHORTER = {
  ", 500,": ", 2,",
  "fpp.vector_flow(2)": "fpp.vector_flow(2, couplings=1, blocks=1)",
  "fpp.VectorFlow(2)": "fpp.VectorFlow(2, couplings=1, blocks=1)",
  'fpp.FlowPlusPlus(fpp.get_config("digits"))': "fpp.FlowPlusPlus(model.config)",
  'fpp.train("digits", "digits", "runs/digits")': (
    'fpp.train("digits", model.config, "runs/digits", steps=1, verbose=False, tensorboard=())'
  ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """A folder with what the examples in `LOADING` load."""
  folder = tmp_path_factory.mktemp("examples")
  fpp.export_saved_model(model(), folder / "exported" / "1")
  fpp.export_official_weights(model(), folder / "weights.npz")
  return folder


@pytest.mark.parametrize("name", sorted(public_names()))
def test_every_public_name_has_an_example(name):
  assert "\nExample:\n  >>> " in inspect.cleandoc(inspect.unwrap(public_names()[name]).__doc__)


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")  # which Keras saves, and says so
@pytest.mark.parametrize("name", sorted(dict(with_methods(public_names()))))
def test_the_example_prints_what_it_says(name, namespace, request, tmp_path, monkeypatch):
  monkeypatch.chdir(request.getfixturevalue("exported") if name in LOADING else tmp_path)
  text = inspect.getdoc(inspect.unwrap(dict(with_methods(public_names()))[name]))
  assert text.count("Example:") == 1
  text = text.partition("Example:")[2]
  for long, short in SHORTER.items():
    text = text.replace(long, short)
  namespace.update(OTHERS.get(name, lambda names: {})(namespace))
  failures = []
  runner = doctest.DocTestRunner(verbose=False)
  runner.run(doctest.DocTestParser().get_doctest(text, namespace, name, None, None), out=failures.append)
  assert not failures, "".join(failures)

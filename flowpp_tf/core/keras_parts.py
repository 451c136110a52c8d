"""Keras layers and variables inside distributions and bijectors of TFP, which Keras itself does not find there."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import functools
import inspect
from typing import Any
import warnings

import keras
from keras.src.backend.common import global_state
import tensorflow as tf


def keras_parts(module: tf.Module) -> list[keras.layers.Layer | keras.Variable]:
  """Return the Keras layers and variables of a module and of the modules in it, each once."""
  parts: dict[int, Any] = {}
  for owner in (module, *module.submodules):
    for value in vars(owner).values():
      if isinstance(value, (keras.layers.Layer, keras.Variable)):
        parts[id(value)] = value
  return list(parts.values())


def keras_variables(module: tf.Module) -> list[keras.Variable]:
  """Return the variables of `keras_parts`."""
  variables: list[keras.Variable] = []
  for part in keras_parts(module):
    if isinstance(part, keras.layers.Layer):
      variables += part.variables
    else:
      variables.append(part)
  return variables


def without_frozen(module: tf.Module, variables: Iterable[tf.Variable]) -> tuple[tf.Variable, ...]:
  """Return a module's variables except the frozen ones: TensorFlow does not know which ones Keras has frozen."""
  frozen = {id(v.value) for v in keras_variables(module) if not v.trainable}
  return tuple(v for v in variables if id(v) not in frozen)


def warn_if_untracked(flow: tf.Module) -> bool:
  """Warn if a Keras layer evaluates a flow without having its weights, and return whether a layer evaluates it.

  A Keras layer tracks the layers and variables among its attributes, not the distributions: `fit` would not train them.
  """
  call = global_state.get_global_attribute("current_call_ctx")
  if call is None:
    return False
  owned = {id(v.value) for v in call.entry_layer.variables}
  lost = [v for v in flow.trainable_variables if id(v) not in owned]
  if lost:
    warnings.warn(
      f"the Keras layer {call.entry_layer.name!r} evaluates {flow.name!r}, and {len(lost)} trainable variables of it "
      "are none of the layer's: Keras does not train or save them. Use `fpp.layers.Flow(flow)` in the layer",
      stacklevel=2,
    )
  return True


def tf_variable(variable: Any) -> tf.Variable:
  """Return the variable of TensorFlow that a Keras variable holds; another variable as it is."""
  return variable.value if isinstance(variable, keras.Variable) else variable


def warn_of_closures(module: tf.Module, argument: str, function: Callable[..., Any]) -> None:
  """Warn if a function that a module keeps reads trainable variables that the module does not track.

  Args:
    module: whose `trainable_variables` an optimizer gets.
    argument: its argument, in the message.
    function: the callable that was given; one with `variables` of its own is tracked.
  """
  if hasattr(function, "variables"):
    return
  untracked = {id(v) for v in _closure_variables(function)} - {id(v) for v in module.trainable_variables}
  if untracked:
    warnings.warn(
      f"{argument} of {module.name!r} reads {len(untracked)} trainable variables that its `trainable_variables` "
      "lacks: an optimizer of these does not train them. Give the Keras layer itself as `conditioner`, and a "
      "context by `Conditioned`",
      stacklevel=5,
    )


def _closure_variables(function: Callable[..., Any]) -> Iterator[tf.Variable]:
  """Yield the trainable variables of layers, modules and variables that a function closes over."""
  values: list[Any] = []
  if isinstance(function, functools.partial):
    values += [*function.args, *function.keywords.values()]
    function = function.func
  values.append(getattr(function, "__self__", function))
  with contextlib.suppress(TypeError, ValueError):  # not a function; a name that is assigned later
    closure = inspect.getclosurevars(function)
    values += [*closure.nonlocals.values(), *closure.globals.values()]
  for value in values:
    if isinstance(value, (tf.Module, keras.layers.Layer)):
      yield from map(tf_variable, value.trainable_variables)
    elif isinstance(value, (tf.Variable, keras.Variable)) and value.trainable:
      yield tf_variable(value)

"""Results that are not finite are an error, which names the layer or bijector where they began.

A NaN is no pixel and no score: where results leave the library as images or reports, it must not become a number.
"""

from collections.abc import Callable
import traceback
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.errors import InputError


def check_finite(name: str, results: Any, evaluate: Callable[[], Any]) -> None:
  """Raise an `InputError` unless all results are finite.

  Args:
    name: what the results are, in the message.
    results: floating tensor or array of any shape.
    evaluate: function that computes the results again, eagerly.
  """
  if not np.all(np.isfinite(results)):
    raise InputError(not_finite(name, evaluate))


def not_finite(name: str, evaluate: Callable[[], Any]) -> str:
  """Return the message about results that are not finite; arguments as in `check_finite`."""
  found = first_non_finite_part(evaluate)
  return f"{name} must be finite, got NaN or infinity{f': {found}' if found else ''}"


def check_weights_finite(model: keras.Model) -> None:
  """Raise an `InputError` unless all weights of a model are finite."""
  for variable in model.weights:
    if variable.dtype.startswith(("float", "bfloat")) and not np.all(np.isfinite(np.asarray(variable, np.float64))):
      raise InputError(f"the weights of the model must be finite, got NaN or infinity in {variable.path}")


def first_non_finite_part(evaluate: Callable[[], Any]) -> str | None:
  """Return a sentence about the layer and the bijector around the first operation whose result is not finite.

  Args:
    evaluate: function of no arguments, which is called with `tf.debugging.enable_check_numerics`.
  """
  functions_were_eager = tf.config.functions_run_eagerly()
  tf.config.run_functions_eagerly(True)  # to have the frames of layers within blocks
  tf.debugging.enable_check_numerics()
  try:
    evaluate()
  except tf.errors.InvalidArgumentError as error:
    parts = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    bijector, layer = _last(parts, tfp.bijectors.Bijector), _last(parts, keras.layers.Layer)
    if bijector > layer:
      return f"bijector {parts[bijector].name} made the first value that is not finite"
    if layer >= 0:
      inside = f" in bijector {parts[bijector].name}" if bijector >= 0 else ""
      return f"layer {parts[layer].name}{inside} made the first value that is not finite"
  finally:
    tf.debugging.disable_check_numerics()
    tf.config.run_functions_eagerly(functions_were_eager)
  return None


def _last(parts, kind):
  """The index of the last part of a kind, -1 if there is none; the model is not a part."""
  return max(
    (i for i, part in enumerate(parts) if isinstance(part, kind) and not isinstance(part, keras.Model)), default=-1
  )

"""A flow as a Keras layer, so that Keras trains, saves and loads its weights.

A distribution of TFP keeps `tf.Variable`s, which Keras does not see. This layer finds the Keras layers and variables
that the distribution is made of.
"""

from collections.abc import Sequence
import contextlib
import json
import pkgutil
from typing import Any

from jaxtyping import Float
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.checks import as_sample_shape, as_tensor, check_event, check_not_masked, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.keras_parts import keras_parts, keras_variables
from flowpp_tf.core.registry import FLOW_FROM_CONFIG
from flowpp_tf.types import Seed, TensorLike

_SETTINGS = "settings"  # name in files of weights, next to the weights' numbers


class Adaptable:
  """Mixin for Keras layers and models with data-dependent initialisation; it precedes Keras' class.

  Attributes:
    initialized: whether the weights were set by `adapt`, `initialize`, `set_weights`, or by loading a file of any
      kind. It is not a weight, and files do not hold it. Set it to True after assigning variables one by one, or
      restoring them by `tf.train.Checkpoint`.
  """

  initialized = False

  def _check_new(self, overwrite):
    """Raise an `InputError` if `adapt` would replace weights without being asked to."""
    check_type("overwrite", overwrite, bool)
    if self.initialized and not overwrite:
      raise InputError(
        "the weights would be replaced: the model is initialised already, by `adapt` or by loaded weights; give "
        "`overwrite=True` to replace them"
      )

  def load_own_variables(self, store: Any) -> None:
    """Read the weights from a file, as in Keras, which calls this for each layer that it loads."""
    super().load_own_variables(store)  # type: ignore[misc]
    self.initialized = True

  def set_weights(self, weights: Any) -> None:
    """Set the weights, as in Keras."""
    check_type("weights", weights, Sequence)
    super().set_weights(weights)  # type: ignore[misc]
    self.initialized = True


@keras.saving.register_keras_serializable("flowpp_tf")
class Flow(Adaptable, keras.layers.Layer):
  """The log density of a flow; Keras trains and saves the flow's weights.

  Args:
    distribution: `FlowDistribution`, or another TFP distribution, whose weights are in Keras layers and variables.

  `call(x [..., *event_shape], context=None)` gives the log density `[...]` in nats, given the context if there is one.
  The weights are saved with the model that the layer is in. A `.keras` file can hold a flow of `vector_flow`,
  `image_flow` or `ensemble`; a layer of another distribution needs a subclass with a `get_config`.

  The log density has the dtype of the distribution. Floating-point inputs are cast to it, as Keras casts inputs to the
  dtype of a layer; others are an error. A mixed policy does not lower it: the layer computes in its variables' dtype.

  Raises:
    InputError (a ValueError): if `distribution` is not a TFP distribution, or has `tf.Variable`s that belong to no
      Keras layer or variable; from a method, if it takes no context, or cannot be initialised.

  Examples:
    >>> layer = fpp.layers.Flow(fpp.vector_flow(2))
    >>> model = keras.Sequential([layer])
    >>> model.compile("adam", loss=lambda _, log_prob: -log_prob)
  """

  def __init__(self, distribution: tfp.distributions.Distribution, **kwargs: Any) -> None:
    super().__init__(autocast=False, **kwargs)
    if not isinstance(distribution, tfp.distributions.Distribution):
      raise InputError(f"`distribution` must be a TFP distribution, got {distribution!r}")
    self._set_distribution(distribution)

  def _set_distribution(self, distribution):
    """Find the distribution's weights; subclasses call it in place of the constructor, once the layer has a name."""
    self.distribution = distribution
    self.parts = keras_parts(distribution)
    owned = {id(v.value) for v in keras_variables(distribution)}
    others = [v.name for v in distribution.variables if id(v) not in owned]
    if others:
      raise InputError(
        f"Keras cannot own the variables {', '.join(others)} of {distribution.name!r}: make them "
        "`keras.Variable`s, or weights of a Keras layer"
      )
    self.built = True

  def __call__(self, x: TensorLike, *args: Any, **kwargs: Any) -> Any:
    # Not in `call`, where Keras puts paragraphs around the line of an error.
    event_shape = self.distribution.event_shape
    check_not_masked("x", x)
    if not hasattr(x, "shape"):  # Keras would take each number of a list for an input
      x = as_tensor("x", x, tf.as_dtype(self.variable_dtype))
    if isinstance(event_shape, tf.TensorShape):
      check_event("x", tf.TensorShape(getattr(x, "shape", None)), event_shape)
    return super().__call__(x, *args, **kwargs)

  @property
  def compute_dtype(self) -> str:
    """Return the dtype of the variables, in which the flow computes under a mixed policy too."""
    return self.variable_dtype

  def call(self, x: TensorLike, context: TensorLike | None = None) -> Float[tf.Tensor, "..."]:
    return self._given(context).log_prob(self._cast(x))

  def get_config(self) -> dict[str, Any]:
    if not hasattr(self.distribution, "source"):
      raise InputError(f"{self.distribution.name!r} cannot be written to a `.keras` file: save the weights")
    return {**keras.layers.Layer.get_config(self), "distribution": self.distribution.source.to_config()}

  @classmethod
  def from_config(cls, config: dict[str, Any]) -> "Flow":
    make_flow = pkgutil.resolve_name(FLOW_FROM_CONFIG)
    return cls(**{**config, "distribution": make_flow(config["distribution"])})

  def save_own_variables(self, store: Any) -> None:
    """Write the weights to a file, as in Keras, and the other settings that the density depends on."""
    super().save_own_variables(store)
    if settings := self._hidden_settings():
      store[_SETTINGS] = np.frombuffer(settings.encode(), np.uint8)

  def load_own_variables(self, store: Any) -> None:
    """Read the weights from a file, as in Keras; raise an `InputError` if the file is for another density."""
    stored = {name: np.asarray(store[name]) for name in store.keys()}
    settings = stored.pop(_SETTINGS, np.empty(0, np.uint8)).tobytes().decode()
    if settings != (expected := self._hidden_settings()):
      raise InputError(f"the weights must be of a flow with {expected or 'no settings'}, got {settings or 'none'}")
    super().load_own_variables(stored)

  def _hidden_settings(self):
    """Return the settings that change the density but no shape of a weight, as text; "" without a source."""
    with contextlib.suppress(AttributeError, InputError):
      return json.dumps(self.distribution.source.hidden_settings(), sort_keys=True)
    return ""

  def compute_output_shape(self, x_shape: tuple, context_shape: tuple | None = None) -> tuple:
    """Return the shape of the log density for shapes of `x` and of the context; None is an unknown size."""
    specs = [keras.KerasTensor(shape, self.variable_dtype) for shape in (x_shape, context_shape) if shape is not None]
    return self.compute_output_spec(*specs).shape

  def compute_output_spec(self, x: TensorLike, context: TensorLike | None = None) -> keras.KerasTensor:
    """Return the spec of the output, by tracing `call`: Keras' own method would take the dtype from the policy."""
    return keras.Operation.compute_output_spec(self, x, context)

  def adapt(self, x: TensorLike, context: TensorLike | None = None, overwrite: bool = False) -> None:
    """Initialise the flow from data (data-dependent initialisation), as `adapt` of Keras' `Normalization`.

    Args:
      x: a batch, `[N, *event_shape]`; 64 or more.
      context: context of each example, for a flow with one.
      overwrite: whether to initialise a flow that is initialised already.

    Raises:
      InputError (a ValueError): if it is initialised already, and `overwrite` is False.
    """
    self.initialize(x, context, overwrite)

  def initialize(
    self, x: TensorLike, context: TensorLike | None = None, overwrite: bool = False
  ) -> Float[tf.Tensor, "..."]:
    """Initialise the flow as `adapt` does, and return the log density of `x`, `[N]` nats."""
    self._check_new(overwrite)
    flow = self._given(context)
    if not hasattr(flow, "initialize"):
      raise InputError(f"`initialize` needs a `FlowDistribution`, got {flow}")
    log_prob = flow.initialize(self._cast(x), overwrite)
    self.initialized = True
    return log_prob

  def sample(self, n: int | tf.Tensor, context: TensorLike | None = None, seed: Seed = None) -> Float[tf.Tensor, "..."]:
    """Draw samples, `[n, *event_shape]`, or `[n, *batch, *event_shape]` given a context of a batch."""
    return self._given(context).sample(as_sample_shape("n", n), seed=seed)

  def _given(self, context):
    if context is None:
      return self.distribution
    if not hasattr(self.distribution, "given"):
      raise InputError(f"`context` must be None, as {self.distribution} takes none")
    return self.distribution.given(self._cast(context))

  def _cast(self, x):
    """Return a floating-point tensor in the dtype of the distribution; TFP converts arrays and lists."""
    dtype = self.distribution.dtype
    if tf.is_tensor(x) and x.dtype.is_floating and isinstance(dtype, tf.DType) and dtype.is_floating:
      return tf.cast(x, dtype)
    return x

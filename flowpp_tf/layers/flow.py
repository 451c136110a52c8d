"""A flow as a Keras layer, so that Keras trains, saves and loads its weights.

A distribution of TFP keeps `tf.Variable`s, which Keras does not see. This layer finds the Keras layers and variables
that the distribution is made of.
"""

from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.layers.adaptable import Adaptable
from flowpp_tf.types import Seed, TensorLike


@keras.saving.register_keras_serializable("flowpp_tf")
class Flow(Adaptable, keras.layers.Layer):
  """The log density of a flow; Keras trains and saves the flow's weights.

  Args:
    distribution: `FlowDistribution`, or another TFP distribution, whose weights are in Keras layers and variables.

  `call(x [..., *event_shape], context=None)` gives the log density `[...]` in nats, given the context if there is one.
  The weights are saved with the model that the layer is in. A `.keras` file must be able to make the layer again: that
  needs a subclass with `get_config`, such as `VectorFlow`.

  Raises:
    ValueError: if the distribution has `tf.Variable`s that belong to no Keras layer or variable.

  Examples:
    >>> layer = fpp.layers.Flow(fpp.vector_flow(2))
    >>> model = keras.Sequential([layer])
    >>> model.compile("adam", loss=lambda _, log_prob: -log_prob)
  """

  def __init__(self, distribution: tfp.distributions.Distribution, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.distribution = distribution
    self.parts = _keras_parts(distribution)
    owned = {
      id(v.value) for part in self.parts for v in (part.variables if isinstance(part, keras.layers.Layer) else [part])
    }
    others = [v.name for v in distribution.variables if id(v) not in owned]
    if others:
      raise ValueError(
        f"Keras cannot own the variables {', '.join(others)} of {distribution.name!r}: make them "
        "`keras.Variable`s, or weights of a Keras layer"
      )
    self.built = True

  def build(self, *shapes: tuple) -> None:
    """Do nothing: the layer is built when constructed."""

  def call(self, x: TensorLike, context: TensorLike | None = None) -> Float[tf.Tensor, "..."]:
    return self._given(context).log_prob(x)

  def adapt(self, x: TensorLike, context: TensorLike | None = None, overwrite: bool = False) -> None:
    """Initialise the flow from data (data-dependent initialisation), as `adapt` of Keras' `Normalization`.

    Args:
      x: a batch, `[N, *event_shape]`; 64 or more.
      context: of each value, of a flow with one.
      overwrite: whether to initialise a flow that is initialised already.

    Raises:
      InputError (a ValueError): if it is initialised already, and `overwrite` is False.
    """
    self._check_new(overwrite)
    self.initialize(x, context)

  def initialize(self, x: TensorLike, context: TensorLike | None = None) -> Float[tf.Tensor, "..."]:
    """Initialise the flow from a batch of data, and return its log density `[N]`; see `FlowDistribution.initialize`."""
    log_prob = self._given(context).initialize(x)
    self.initialized = True
    return log_prob

  def sample(self, n: int | tf.Tensor, context: TensorLike | None = None, seed: Seed = None) -> Float[tf.Tensor, "..."]:
    """Draw samples, `[n, *event_shape]`, or `[n, *batch, *event_shape]` given a context of a batch."""
    return self._given(context).sample(n, seed=seed)

  def _given(self, context):
    return self.distribution if context is None else self.distribution.given(context)


def _keras_parts(module):
  """The Keras layers and variables of a `tf.Module` and of the modules in it, each once."""
  parts = {}
  for owner in (module, *module.submodules):
    for value in vars(owner).values():
      if isinstance(value, (keras.layers.Layer, keras.Variable)):
        parts[id(value)] = value
  return list(parts.values())

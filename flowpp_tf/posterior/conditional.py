"""Distributions made of flows: an ensemble, and a flow with a network that reads its context."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.checks import as_sample_shape, as_tensor, check_all_finite, check_shape, check_type
from flowpp_tf.core.context import tfp_seed
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.keras_parts import without_frozen
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.posterior.stored_flow import FlowSource
from flowpp_tf.types import TensorLike

__all__ = ["Ensemble", "ensemble"]
tfd = tfp.distributions


def ensemble(flows: Sequence[tfp.distributions.Distribution]) -> Ensemble:
  """Return the equal mixture of flows, such as of the same data from different initial weights.

  A mixture of three flows is nearer to the truth than each of them, most of all where data are few
  (Lakshminarayanan et al. 2017). `fpp.fit(flow, ..., members=3)` makes and trains one.

  Args:
    flows: distributions of events of one shape and dtype, all with a context of the same size, or none.

  Returns:
    `Ensemble`, a distribution with `given` if the flows have it. `fpp.layers.Flow` of it is a layer whose weights
    Keras saves.

  Raises:
    InputError (a ValueError): for no flow, or flows of different events, contexts or dtypes.

  Examples:
    >>> flow = fpp.ensemble([fpp.vector_flow(2, context_size=3) for _ in range(3)])
    >>> flow.given(tf.zeros([5, 3])).sample(10).shape
    TensorShape([10, 5, 2])
  """
  return Ensemble(flows)


class Ensemble(tfp.distributions.Distribution):
  """The equal mixture of flows: `ensemble`.

  Attributes:
    flows: its members.
    context_size: of each of them.

  Examples:
    >>> flow = fpp.ensemble([fpp.vector_flow(2), fpp.vector_flow(2)])
    >>> flow.log_prob(tf.zeros([5, 2])).shape
    TensorShape([5])
  """

  def __init__(
    self, flows: Sequence[tfp.distributions.Distribution], validate_args: bool = False, name: str = "ensemble"
  ) -> None:
    parameters = dict(locals())
    check_type("flows", flows, Sequence)
    for flow in flows:
      check_type("flows", flow, tfd.Distribution)
    kinds = [_kind(flow) for flow in flows]
    if len({*kinds}) != 1:
      found = "none"
      if kinds:
        found = f"those of {kinds[0]} and {next(kind for kind in kinds if kind != kinds[0])}"
      raise InputError(
        f"`flows` must have one shape of events and batch, one dtype and one shape of context, got {found}"
      )
    self.flows = [*flows]
    self.context_size = getattr(flows[0], "context_size", 0)
    super().__init__(
      dtype=flows[0].dtype,
      reparameterization_type=tfd.NOT_REPARAMETERIZED,
      validate_args=validate_args,
      allow_nan_stats=True,
      parameters=parameters,
      name=name,
    )

  @property
  def trainable_variables(self) -> tuple[tf.Variable, ...]:
    """The variables to train, without frozen Keras variables and variables of frozen layers."""
    return without_frozen(self, super().trainable_variables)

  @property
  def source(self) -> FlowSource:
    """The function and the arguments that make such an ensemble."""
    return FlowSource("ensemble", {"flows": self.flows})

  def __reduce__(self) -> tuple[Any, ...]:
    return Ensemble, (self.flows, self.validate_args, self.name)

  def __copy__(self) -> Ensemble:
    return self.copy()  # with the same weights

  @property
  def context_shape(self) -> tuple[int | None, ...]:
    """Shape of the context of one value; for flows with an `embedding`, the shape of its input."""
    return self.flows[0].context_shape

  def given(self, context: Any) -> Ensemble:
    """Return the mixture given a context, as `FlowDistribution.given`."""
    if not hasattr(self.flows[0], "given"):
      raise InputError(f"{self.flows[0].name!r} takes no context")
    return Ensemble([flow.given(context) for flow in self.flows], name=f"{self.name}_given")

  def sample(self, sample_shape: Any = (), seed: Any = None, name: str = "sample", **kwargs: Any) -> tf.Tensor:
    """Draw samples, `[*sample_shape, *batch_shape, *event_shape]`; a seed draws the same in each call."""
    return super().sample(as_sample_shape("sample_shape", sample_shape), tfp_seed(seed), name, **kwargs)

  def experimental_sample_and_log_prob(self, sample_shape: Any = (), *args: Any, **kwargs: Any) -> Any:
    """Draw samples together with their log densities, as in TFP."""
    return super().experimental_sample_and_log_prob(as_sample_shape("sample_shape", sample_shape), *args, **kwargs)

  def _log_prob(self, x):
    log_probs = tf.stack([flow.log_prob(x) for flow in self.flows])
    # Outside of all supports the gradient would be NaN.
    outside = tf.reduce_all(tf.math.is_inf(log_probs) & (log_probs < 0), axis=0)
    log_probs = tf.where(outside, tf.zeros_like(log_probs), log_probs)
    mean = tf.reduce_logsumexp(log_probs, axis=0) - math.log(len(self.flows))
    return tf.where(outside, tf.constant(-math.inf, self.dtype), mean)

  def _sample_n(self, n, seed=None):
    member_seed, *seeds = tfp.random.split_seed(seed, n=len(self.flows) + 1)
    shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
    member = tf.random.stateless_uniform(shape, member_seed, maxval=len(self.flows), dtype=tf.int32)
    ndims = len(member.shape)
    samples = [flow.sample(n, seed=flow_seed) for flow, flow_seed in zip(self.flows, seeds)]
    return tf.gather(tf.stack(samples, axis=ndims), member, axis=ndims, batch_dims=ndims)

  def _event_shape(self):
    return self.flows[0].event_shape

  def _event_shape_tensor(self):
    return self.flows[0].event_shape_tensor()

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return dict(flows=tfp.util.BatchedComponentProperties(event_ndims=lambda self: [0] * len(self.flows)))

  def _default_event_space_bijector(self):
    return self.flows[0].experimental_default_event_space_bijector()


def ensemble_with_new_members(flow: tfp.distributions.Distribution, members: int) -> Ensemble:
  """Return an ensemble of so many members: a flow, and new ones made by the function that made it.

  Raises:
    InputError (a ValueError): if the flow cannot be made again.
  """
  if not isinstance(flow, (FlowDistribution, Ensemble)):
    raise InputError(f"`members` must be 1 for {flow.name!r}, which cannot be made again: give an `fpp.ensemble`")
  return Ensemble([flow, *(flow.source.another() for _ in range(members - 1))])


def single_flows(
  flow: tfp.distributions.Distribution, weight: float = 1.0
) -> list[tuple[tfp.distributions.Distribution, float]]:
  """Return the flows of an ensemble, and of ensembles in it, each with its weight in the mixture."""
  if not isinstance(flow, Ensemble):
    return [(flow, weight)]
  return [single for member in flow.flows for single in single_flows(member, weight / len(flow.flows))]


def _kind(flow):
  """Return what the flows of an ensemble have in common: shapes of event, batch and context, and dtype."""
  context_shape = tuple(flow.context_shape) if getattr(flow, "context_size", 0) else None
  return tuple(flow.event_shape), tuple(flow.batch_shape), flow.dtype, context_shape


class EmbeddedFlow(FlowDistribution):
  """A flow whose context a network makes from data, such as series, images or sets.

  Args:
    distribution: the base distribution.
    bijector: as of `FlowDistribution`, with a context of the network's outputs.
    embedding: Keras model with one input and one output, `[N, C]`.
  """

  def __init__(
    self,
    distribution: tfp.distributions.Distribution,
    bijector: tfp.bijectors.Bijector,
    embedding: keras.Model,
    validate_args: bool = False,
    name: str = "embedded_flow",
  ) -> None:
    self.embedding = embedding
    self._variables_of_embedding = [v.value for v in embedding.variables]
    super().__init__(distribution, bijector, validate_args, dict(locals()), name)

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return super()._parameter_properties(dtype, num_classes)  # TFP warns of a subclass that does not say so

  @property
  def context_shape(self) -> tuple[int | None, ...]:
    """Shape of the data that `given` takes, without the batch: the network's input."""
    return tuple(self.embedding.input_shape[1:])

  @property
  def context_dtype(self) -> tf.DType:
    """The dtype in which the network reads data: the narrowest of its input's and its layers'."""
    names = [self.embedding.inputs[0].dtype, *(layer.variable_dtype for layer in self.embedding.layers)]
    return min([tf.as_dtype(name) for name in names], key=lambda dtype: dtype.size)

  def given(self, context: TensorLike) -> FlowDistribution:
    """Return the distribution given data, `[..., *context_shape]`, which the network reads."""
    context = as_tensor("context", context, self.dtype)
    check_shape("context", context.shape, [..., *self.context_shape])
    check_all_finite("context", context)
    shape = shape_of(context)
    batch_ndims = len(shape) - len(self.context_shape)
    outputs = self.embedding(tf.reshape(context, [-1, *shape[batch_ndims:]]))
    check_all_finite("embedding(context)", outputs)
    outputs = tf.cast(outputs, self.dtype)
    return super().given(tf.reshape(outputs, [*shape[:batch_ndims], self.context_size]))


# --- Embeddings ---------------------------------------------------------------------------------


def as_model(embedding: keras.layers.Layer, shape: Sequence[int]) -> keras.Model:
  """Return a Keras layer as a model of inputs of a shape; a model that has an input is returned unchanged."""
  check_type("embedding", embedding, keras.layers.Layer)
  has_input = getattr(embedding, "inputs", None)
  return embedding if has_input else keras.Sequential([keras.Input(shape), embedding])


def outputs(embedding: keras.Model, context_size: int) -> int:
  """Return the size of the context that an embedding makes; raise an `InputError` if it does not make one."""
  check_type("embedding", embedding, keras.Model)
  if context_size:
    raise InputError(f"`context_size` must be left out, as `embedding` makes the context, got {context_size}")
  inputs = getattr(embedding, "inputs", None) or []
  if len(inputs) == 1:
    shape = embedding.output_shape
    if isinstance(shape, tuple) and len(shape) == 2 and shape[1]:
      return shape[1]
  raise InputError(f"`embedding` must have one `keras.Input` and one output [N, C], which {embedding.name!r} has not")

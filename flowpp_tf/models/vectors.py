"""Flow++ for vectors: a density of points, or of points given a context, to be a part of other models.

    z = coupling_n(L_n(actnorm_n(... coupling_1(L_1(actnorm_1(x))))))        L_i linear, by its LU decomposition

The parts are those of the image model (sections 3.2 and 4): ActNorm with data-dependent initialisation, a linear map in
the place of the 1x1 convolution, and couplings by the CDF of a mixture of logistics, whose networks are dense.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.layers import DenseConditioner
from flowpp_tf.layers.flow import Flow

tfd = tfp.distributions
# A mixture begins with its means between these, and log scales of -1: together they cover values of variance 1, and
# components that differ from the start learn faster.
_MEANS, _LOG_SCALE = 2.5, -1.0
_MIN_VARIANCE = 1e-6  # of ActNorm: constant features are not scaled without bound


def vector_flow(
  event_size: int,
  context_size: int = 0,
  couplings: int = 6,
  components: int = 8,
  hidden: int = 64,
  blocks: int = 2,
  dtype: str = "float32",
) -> FlowDistribution:
  """Return Flow++ for vectors as a TFP distribution.

  Args:
    event_size: values of a vector, at least 2.
    context_size: values of the context; 0 for a flow without. With a context, `flow.given(context)`, for a context
      `[..., context_size]`, is the distribution to use.
    couplings: number of coupling layers; each keeps half of the values, other ones than the layer before it.
    components: K, logistics in a mixture.
    hidden: width of the networks.
    blocks: residual blocks of a network.
    dtype: float32 or float64.

  Returns:
    `FlowDistribution` of `[..., event_size]`. `VectorFlow` is the same as a Keras layer.

  Raises:
    ValueError: for a size that is too small; the message names it.

  Example:
    >>> flow = fpp.vector_flow(2)
    >>> log_prob = flow.initialize(x)  # x [N, 2]: data-dependent initialisation
    >>> optimizer = keras.optimizers.Adam(1e-3)
    >>> losses = tfp.math.minimize(lambda: -tf.reduce_mean(flow.log_prob(x)), 500, optimizer)
    >>> flow.sample(10).shape
    TensorShape([10, 2])
  """
  for name, value, least in (
    ("event_size", event_size, 2),
    ("context_size", context_size, 0),
    ("couplings", couplings, 1),
    ("components", components, 1),
  ):
    if value < least:
      raise ValueError(f"`{name}` must be at least {least}, got {value}")
  kept = event_size // 2
  variable = lambda value, name: keras.Variable(value, dtype=dtype, name=name)
  bijector_fn = functools.partial(_mixture_bijector, components=components)
  parts: list[fb.Bijector] = []
  for i in range(couplings):
    conditioner = DenseConditioner(
      kept,
      (event_size - kept) * fb.num_parameters("mixture_logistic", components),
      hidden,
      blocks,
      context_size,
      dtype=dtype,
      name=f"conditioner_{i}",
    )
    parts += [
      fb.ActNorm(
        variable(np.ones(event_size), f"scale_{i}"),
        variable(np.zeros(event_size), f"bias_{i}"),
        min_variance=_MIN_VARIANCE,
        name=f"act_norm_{i}",
      ),
      # What the last coupling has transformed comes first, and is kept.
      fb.Invertible1x1ConvLU(
        variable(np.zeros([event_size, event_size]), f"lower_upper_{i}"),
        event_ndims=1,
        permutation=(np.arange(event_size) - kept) % event_size,
        name=f"linear_{i}",
      ),
      fb.Coupling(conditioner, bijector_fn, event_ndims=1, kept=kept, dtype=dtype, name=f"coupling_{i}"),
    ]
  normal = tfd.Normal(tf.zeros([], dtype), tf.ones([], dtype))
  return FlowDistribution(tfd.Sample(normal, event_size), fb.Invert(fb.Chain(parts[::-1])), name="vector_flow")


def _mixture_bijector(parameters, components):
  """Equation 11, of a mixture whose components are apart where the parameters are 0."""
  means = _MEANS * np.linspace(-1, 1, components + 2)[1:-1]
  start = np.concatenate([np.zeros(2 + components), means, np.full(components, _LOG_SCALE)])
  start = tf.constant(np.tile(start, parameters.shape[-1] // len(start)), parameters.dtype)
  return fb.mixture_logistic_coupling_bijector(parameters + start, components)


@keras.saving.register_keras_serializable("flowpp_tf")
class VectorFlow(Flow):
  """`vector_flow` as a Keras layer: `layer(x, context=None)` is the log density, `layer.distribution` the flow.

  Arguments and errors as in `vector_flow`; methods as in `layers.Flow`.

  Example:
    >>> def negative(_, log_prob):
    ...   return -log_prob
    >>> flow = fpp.VectorFlow(2)
    >>> model = keras.Sequential([flow])
    >>> model.compile("adam", loss=negative)
    >>> log_prob = flow.initialize(x)
    >>> history = model.fit(x, x, epochs=2, verbose=0)
    >>> model.save("flow.keras")
  """

  def __init__(
    self,
    event_size: int,
    context_size: int = 0,
    couplings: int = 6,
    components: int = 8,
    hidden: int = 64,
    blocks: int = 2,
    **kwargs: Any,
  ) -> None:
    self._config = dict(
      event_size=event_size,
      context_size=context_size,
      couplings=couplings,
      components=components,
      hidden=hidden,
      blocks=blocks,
    )
    dtype = keras.dtype_policies.get(kwargs.get("dtype") or keras.config.dtype_policy()).variable_dtype
    super().__init__(vector_flow(**self._config, dtype=dtype), **kwargs)

  def get_config(self) -> dict[str, Any]:
    return {**keras.layers.Layer.get_config(self), **self._config}

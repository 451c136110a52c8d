"""Flow++ for vectors: a density of points, or of points given a context, to be a part of other models.

    z = coupling_n(L_n(actnorm_n(... coupling_1(L_1(actnorm_1(W (x - mean) / stddev))))))

The bijectors are the same as in the image model (sections 3.2 and 4): ActNorm with data-dependent initialisation, a
linear map L_i by its LU decomposition in place of the 1x1 convolution, and couplings by the CDF of a mixture of
logistics, whose networks are dense. Data and context are standardised first, by weights that are not trained. Otherwise
the effect of a step of Adam would depend on the unit of the data. Without a context, columns are also decorrelated, by
W: for data near a plane, training would end long before it had found the plane.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf import bijectors as fb
from flowpp_tf.config.size import vector_flow_size
from flowpp_tf.core.checks import as_array, check_count, check_number
from flowpp_tf.core.errors import InputError
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.io import budget
from flowpp_tf.layers import DenseConditioner
from flowpp_tf.layers.flow import Flow
from flowpp_tf.models.fitted_transform import make_standardization
from flowpp_tf.posterior import conditional
from flowpp_tf.posterior.stored_flow import FlowSource, arguments_from_config, arguments_to_config
from flowpp_tf.posterior.support import Support, on_support
from flowpp_tf.types import TensorLike

tfd = tfp.distributions
# The networks' outputs are relative to means between -2.5 and 2.5, and log scales -1. Files of weights depend on it.
_MEANS = 2.5
_LOG_SCALE = -1.0
# Data-dependent initialisation makes log scales -0.3: then the logit of the mixture's CDF is nearly the identity, and
# training begins close to a normal density. Few rows do not suffice to learn it from further away.
_INITIAL_LOG_SCALE = -0.3
_MIN_VARIANCE = 1e-6  # in ActNorm, so that constant features are not scaled without bound
# docs/benchmarks/vector_flows.md says which data chose these. The default sizes of `vector_flow` are for more rows.
_FEW_ROWS = 1000
_SIZES_FOR_FEW_ROWS = dict(couplings=3, components=4, hidden=16, blocks=1, df=5.0)
_SMALLEST = {"context_size": 0, "blocks": 0}  # sizes that may be 0; all others are at least 1
_POLICIES = "float32", "float64", "mixed_bfloat16", "mixed_float16"


def vector_flow(
  event_size: int,
  context_size: int = 0,
  couplings: int = 6,
  components: int = 8,
  hidden: int = 64,
  blocks: int = 2,
  dtype: str = "float32",
  df: float | None = None,
  support: Support | None = None,
  embedding: keras.Model | None = None,
) -> FlowDistribution:
  """Return Flow++ for vectors as a TFP distribution.

  Args:
    event_size: number of values of a vector. With one value, the networks see the context only.
    context_size: number of values of the context; 0 for a flow without. With a context, `flow.given(context)`, for a
      context `[..., context_size]`, is the distribution to use.
    couplings: number of coupling layers; consecutive ones keep different halves of the values.
    components: K, logistics in a mixture.
    hidden: width of the networks.
    blocks: residual blocks of a network.
    dtype: float32 or float64, or a mixed policy of Keras, as of `VectorFlow`.
    df: degrees of freedom of Student's t-distribution as the base, for data with outliers; None for a normal one.
    support: bijector from the reals onto the set where the density is not 0. It transforms vectors, or each of their
      values; or it is a list with a bijector for each value, None for any real number. `fpp.support` has the common
      ones; None for all vectors.
    embedding: Keras model that makes the context from the argument of `given`, such as a series, an image or a set.
      Its input is `[N, ...]`, its output `[N, C]`. Leave out `context_size`, which is C. It is trained with the flow.

  Returns:
    `FlowDistribution` of `[..., event_size]`. `VectorFlow` is the same as a Keras layer.

  Raises:
    InputError (a ValueError): for a size that is not an integer, too small or too large, another dtype, a `df` that
      is not positive, or a `support` of other vectors.

  Examples:
    >>> flow = fpp.vector_flow(2)
    >>> x = tf.random.normal([64, 2])
    >>> log_prob = flow.initialize(x)  # data-dependent initialisation
    >>> optimizer = keras.optimizers.Adam(1e-3)
    >>> losses = tfp.math.minimize(lambda: -tf.reduce_mean(flow.log_prob(x)), 500, optimizer)
    >>> flow.sample(10).shape
    TensorShape([10, 2])
  """
  return VectorFlow(
    event_size, context_size, couplings, components, hidden, blocks, df, support, embedding, dtype=dtype
  ).distribution


def vector_flow_for(data: TensorLike, context: TensorLike | None = None, **sizes: Any) -> FlowDistribution:
  """Return a `vector_flow` whose sizes follow from data: from their columns, and from the number of their rows.

  Less than 1,000 rows get a small flow, which overfits less. Its base has heavier tails, so that outliers cost less.
  `fpp.fit` trains it.

  Args:
    data: rows `[N, D]`.
    context: rows `[N, C]`, for a flow with a context; with an `embedding`, which may be any Keras layer then, its
      inputs, `[N, ...]`.
    **sizes: arguments of `vector_flow`, which replace the sizes that follow from the data.

  Returns:
    `FlowDistribution` of `[..., D]`, not initialised: `fpp.fit` does that, or its `initialize`.

  Raises:
    InputError (a ValueError): if an array does not have these shapes, or the arrays have different numbers of rows;
      from `vector_flow`, for a size that is invalid.

  Examples:
    >>> x = np.random.normal(size=[1000, 3]).astype("float32")
    >>> fpp.vector_flow_for(x).event_shape
    TensorShape([3])
  """
  data = as_array("data", data, ["N", "D"])
  if not len(data):
    raise InputError("`data` must have rows, got none")
  defaults: dict[str, Any] = dict(event_size=data.shape[1])
  if len(data) < _FEW_ROWS:
    defaults |= _SIZES_FOR_FEW_ROWS
  if sizes.get("embedding") is not None:
    sizes["embedding"] = conditional.as_model(sizes["embedding"], as_array("context", context).shape[1:])
  elif context is not None:
    context_size = as_array("context", context, [len(data), "C"]).shape[1]
    if not context_size:
      raise InputError("`context` must have columns, got none: leave it out for a flow without a context")
    defaults["context_size"] = context_size
  return vector_flow(**{**defaults, **sizes})


def _base_and_bijector(
  event_size, context_size, couplings, components, hidden, blocks, dtype, network_dtype, df, support
):
  """Return base and bijector of the flow; the caller's name scope is the prefix of the weights' paths."""
  kept = event_size // 2
  variable = functools.partial(keras.Variable, dtype=dtype, autocast=False)
  # Components differ where the parameters are 0.
  means = _MEANS * np.linspace(-1, 1, components + 2)[1:-1]
  mixture = fb.CouplingMap("mixture_logistic", components, offsets=tuple(_mixture_parameters(means, _LOG_SCALE)))
  no_means = np.zeros(components)
  initial_parameters = _mixture_parameters(no_means, _INITIAL_LOG_SCALE - _LOG_SCALE)
  bijectors: list[fb.Bijector] = [make_standardization(variable, event_size)]
  if not context_size:  # given a context, columns have other correlations, which couplings have to learn
    kernel = variable(np.eye(event_size), trainable=False, name="whitening")
    bijectors.append(fb.Invertible1x1Conv(kernel, event_ndims=1, whitening=True, name="whitening"))
  for i in range(couplings):
    conditioner = DenseConditioner(
      kept,
      (event_size - kept) * fb.num_parameters("mixture_logistic", components),
      hidden,
      blocks,
      context_size,
      np.tile(initial_parameters, event_size - kept),
      dtype=network_dtype,
      name=f"conditioner_{i}",
    )
    bijectors += [
      fb.ActNorm(
        variable(np.ones(event_size), name=f"scale_{i}"),
        variable(np.zeros(event_size), name=f"bias_{i}"),
        min_variance=_MIN_VARIANCE,
        name=f"act_norm_{i}",
      ),
      # The values that the last coupling has transformed come first, and this one keeps them.
      fb.Invertible1x1ConvLU(
        variable(np.zeros([event_size, event_size]), name=f"lower_upper_{i}"),
        event_ndims=1,
        permutation=(np.arange(event_size) - kept) % event_size,
        name=f"linear_{i}",
      ),
      fb.Coupling(conditioner, mixture, event_ndims=1, kept=kept, dtype=dtype, name=f"coupling_{i}"),
    ]
  to_latents: fb.Bijector = fb.Chain(bijectors[::-1])
  if context_size:
    standardization = make_standardization(variable, context_size, "context_", allow_constant=True)
    to_latents = fb.ContextTransform(to_latents, standardization)
  from_latents = fb.Invert(to_latents)
  if support is not None:
    from_latents = fb.Chain([support, from_latents])
  return tfd.Sample(_standard_base(df, dtype), event_size), from_latents


def _standard_base(df, dtype):
  """Return the distribution of one latent value, normal if `df` is None."""
  zero = tf.zeros([], dtype)
  one = tf.ones([], dtype)
  if df is None:
    return tfd.Normal(zero, one)
  return tfd.StudentT(tf.constant(df, dtype), zero, one)


def _mixture_parameters(means, log_scale):
  """Return the parameters of one value, all 0 except for the components' means and log scales."""
  components = len(means)
  scale_shift_and_logits = [0.0] * (2 + components)
  log_scales = [float(log_scale)] * components
  return [*scale_shift_and_logits, *map(float, means), *log_scales]


def _policy_name(dtype):
  """Return the name of a policy of Keras in which a `VectorFlow` computes; None means the global one."""
  with contextlib.suppress(TypeError, ValueError, AttributeError):
    if (name := keras.dtype_policies.get(dtype).name) in _POLICIES:
      return name
  wrong = repr(dtype)
  if dtype is None:
    wrong = f"the global {keras.config.dtype_policy().name!r}"
  raise InputError(f"`dtype` must be {', '.join(_POLICIES[:-1])} or {_POLICIES[-1]}, got {wrong}")


@keras.saving.register_keras_serializable("flowpp_tf")
class VectorFlow(Flow):
  """`vector_flow` as a Keras layer: `layer(x, context=None)` is the log density, `layer.distribution` the flow.

  Arguments and errors as in `vector_flow`, except for `dtype`, a policy of Keras: float32, float64, mixed_bfloat16 or
  mixed_float16, the global one if it is not given. Under a mixed policy the networks compute in its compute dtype; the
  variables, the flow's bijectors and the log density stay in float32. Methods as in `layers.Flow`.

  Examples:
    >>> def negative(_, log_prob):
    ...   return -log_prob
    >>> flow = fpp.VectorFlow(2)
    >>> model = keras.Sequential([flow])
    >>> model.compile("adam", loss=negative)
    >>> x = tf.random.normal([64, 2])
    >>> flow.adapt(x)
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
    df: float | None = None,
    support: Support | None = None,
    embedding: keras.Model | None = None,
    **kwargs: Any,
  ) -> None:
    sizes = dict(event_size=event_size, context_size=context_size, couplings=couplings)
    sizes |= dict(components=components, hidden=hidden, blocks=blocks)
    for name, size in sizes.items():
      check_count(name, size, _SMALLEST.get(name, 1))
    policy = _policy_name(kwargs.get("dtype"))
    if df is not None:
      check_number("df", df, 0.0, ends=False)
      df = float(df)
    arguments = {**sizes, "df": df, "support": support, "embedding": embedding, "dtype": policy}
    dtype = keras.dtype_policies.get(policy).variable_dtype
    to_support = None
    if support is not None:
      to_support = on_support(support, event_size, dtype)
      sizes["event_size"] = to_support.inverse_event_shape([event_size])[0]
    if embedding:
      sizes["context_size"] = conditional.outputs(embedding, context_size)
    budget.claim("memory", vector_flow_size(**sizes).memory(tf.as_dtype(dtype).size), "a `VectorFlow`")
    keras.layers.Layer.__init__(self, autocast=False, **kwargs)  # `Flow` would need the distribution
    with keras.name_scope(self.name, caller=self):
      base, bijector = _base_and_bijector(**sizes, dtype=dtype, network_dtype=policy, df=df, support=to_support)
      if embedding:
        flow = conditional.EmbeddedFlow(base, bijector, embedding=embedding, name="vector_flow")
      else:
        flow = FlowDistribution(base, bijector, name="vector_flow")
      self._set_distribution(flow)
    self.distribution._source = FlowSource("vector_flow", arguments)

  @classmethod
  def from_config(cls, config: dict[str, Any]) -> "VectorFlow":
    """Return the layer of a config; Keras' own method would replace an error that names the memory budget."""
    return cls(**arguments_from_config(config))

  def get_config(self) -> dict[str, Any]:
    config = keras.layers.Layer.get_config(self)
    arguments = {**self.distribution.source.arguments, "dtype": None}  # `config` has it
    return {**config, **arguments_to_config(arguments)}

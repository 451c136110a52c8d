"""Flow++ for real-valued images as a plain distribution, to be a part of other models: `vector_flow` for `[H, W, C]`.

The flow is the same as in `FlowPlusPlus` with `dequantization` "none": a standardization of each channel, then coupling
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import keras

from flowpp_tf.config.model import FlowPlusPlusConfig
from flowpp_tf.core.checks import check_arguments, check_shape_of_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.models.coupling_flow import CouplingFlow
from flowpp_tf.models.fitted_transform import make_standardization
from flowpp_tf.posterior.stored_flow import FlowSource
from flowpp_tf.types import Shape

_MOST_SQUEEZES = 2  # in the default structure


@check_arguments
def image_flow(
  shape: Shape,
  context_shape: Sequence[int] = (),
  structure: str | None = None,
  coupling: str = "mixture_logistic",
  components: int = 4,
  filters: int = 32,
  blocks: int = 1,
  attention: bool = False,
  padding: str = "zeros",
  dtype: str = "float32",
) -> FlowDistribution:
  """Return Flow++ for real-valued images as a TFP distribution; `fpp.fit` trains it.

  Args:
    shape: `(H, W, C)` of an image.
    context_shape: `(H, W, c)` for p(field | field), `(1, 1, c)` for p(field | parameters); empty for a flow without.
      With one, `flow.given(context)`, for a context `[..., *context_shape]`, is the distribution to use.
    structure: as in `FlowPlusPlusConfig`; None for one of up to two squeezes, by the shape.
    coupling: kind of coupling; "affine" is fast, and enough for fields that are nearly Gaussian.
    components: K, logistics in a mixture.
    filters: channels inside the networks.
    blocks: blocks of a network.
    attention: whether blocks have self-attention.
    padding: "zeros", or "periodic" for fields on a torus: the density then does not change when they are rolled by
      whole blocks of the structure's squeezes.
    dtype: float32 or float64.

  Returns:
    `FlowDistribution` of `[..., H, W, C]`, not initialised: `fpp.fit` does that, or its `initialize`, which also fits
    mean and standard deviation of each channel.

  Raises:
    InputError (a ValueError): for an argument that is out of range, or a shape that the structure cannot split.

  Examples:
    >>> fields = np.random.normal(size=[64, 8, 8, 1]).astype("float32")
    >>> flow = fpp.image_flow((8, 8, 1), filters=8)
    >>> result = fpp.fit(flow, fields, steps=2)
    >>> flow.log_prob(fields).shape, flow.sample(3).shape
    (TensorShape([64]), TensorShape([3, 8, 8, 1]))
  """
  arguments = dict(locals())
  shape = check_shape_of_images("shape", shape)
  if len(context_shape):
    check_shape_of_images("context_shape", context_shape)
  if dtype not in ("float32", "float64"):
    raise InputError(f"`dtype` must be float32 or float64, got {dtype!r}")
  if structure is None:
    structure = _default_structure(shape)
  config = FlowPlusPlusConfig(
    shape,
    dequantization="none",
    structure=structure,
    coupling=coupling,
    components=components,
    filters=filters,
    blocks=blocks,
    attention=attention,
    padding=padding,
    condition_shape=tuple(context_shape),
    condition_channels=context_shape[2] if len(context_shape) else 1,
    dtype=dtype,
  )
  sides = config.condition_shape[:2]
  if sides not in ((), (1, 1), shape[:2]):
    raise InputError(f"`context_shape` must have the sides of `shape`, or 1 and 1, got {config.condition_shape}")
  with keras.name_scope(_unique_scope()):
    couplings = CouplingFlow(config.structure, shape, config.flow_couplings, sides, dtype=dtype, name="flow")
    make_weight = functools.partial(keras.Variable, dtype=dtype)
    standardization = make_standardization(make_weight, shape[2])
  flow = couplings.distribution([standardization], "image_flow")
  flow._source = FlowSource("image_flow", {**arguments, "shape": shape, "context_shape": config.condition_shape})
  return flow


def _unique_scope():
  """Return a name scope for weights, numbered as Keras numbers layers: image_flow, image_flow_1, ..."""
  number = keras.backend.get_uid("image_flow") - 1
  if number == 0:
    return "image_flow"
  return f"image_flow_{number}"


def _default_structure(shape):
  """Return a structure with both splits at each of up to three scales, as far as the sides can be halved.

  The last scale has no columns: they would double the blocks by which a periodic field may be rolled.
  """
  height, width, channels = shape
  stages: list[str] = []
  while stages.count("squeeze") < _MOST_SQUEEZES and height % 2 == width % 2 == 0 and min(height, width) > 2:
    stages.append("columns:2")
    if channels % 2 == 0:
      stages.append("channels:2")
    stages.append("squeeze")
    height //= 2
    width //= 2
    channels *= 4
  if width % 2 == 0 and not stages:
    stages.append("columns:2")
  if channels % 2 == 0:
    stages.append("channels:4")
  if not stages:
    raise InputError(f"`shape` must have an even width or an even number of channels, got {shape}")
  return ",".join(stages)

"""TFP's methods, for bijectors that compute the value together with the log-det.

TFP's own `Chain` and `TransformedDistribution` ask for value and log-det separately. The log-det is left in TFP's cache
between the two, so that a network is called once.
"""

from typing import Any

from jaxtyping import Float
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import cache_util

from flowpp_tf.core.checks import as_tensor, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.types import TensorLike


class TFPMethods(tfp.bijectors.Bijector):
  """The four methods of TFP, by `forward_and_log_det` and `inverse_and_log_det` of a subclass."""

  def forward(self, x: TensorLike, name: str = "forward", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    return super().forward(unknown_to_cache(self._as_tensor("x", x)), name=name, **kwargs)

  def inverse(self, y: TensorLike, name: str = "inverse", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    return super().inverse(unknown_to_cache(self._as_tensor("y", y)), name=name, **kwargs)

  def forward_log_det_jacobian(
    self, x: TensorLike, event_ndims: int | None = None, name: str = "forward_log_det_jacobian", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    _check_event_ndims(event_ndims, self.forward_min_event_ndims)
    x = unknown_to_cache(self._as_tensor("x", x))
    return super().forward_log_det_jacobian(x, event_ndims, name=name, **kwargs)

  def inverse_log_det_jacobian(
    self, y: TensorLike, event_ndims: int | None = None, name: str = "inverse_log_det_jacobian", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    _check_event_ndims(event_ndims, self.inverse_min_event_ndims)
    y = unknown_to_cache(self._as_tensor("y", y))
    return super().inverse_log_det_jacobian(y, event_ndims, name=name, **kwargs)

  def _as_tensor(self, name, value):
    """Return an argument, `x` or `y`, as a tensor; raise an `InputError` if it has fewer dimensions than an event."""
    tensor = as_tensor(name, value, self.dtype, tf.float32)
    least = self.forward_min_event_ndims if name == "x" else self.inverse_min_event_ndims
    if tensor.shape.rank is not None and tensor.shape.rank < least:
      raise InputError(f"`{name}` must have the {least} dimensions of an event, got shape {[*tensor.shape]}")
    return tensor

  # --- TFP's cache ------------------------------------------------------------------------------

  _cache = cache_util.BijectorCacheWithGreedyAttrs(
    forward_name="_forward_and_attributes", inverse_name="_inverse_and_attributes"
  )

  def _forward_and_attributes(self, x, ctx=None):
    y, log_det = self.forward_and_log_det(x, ctx)
    return y, {"ildj": -log_det}

  def _inverse_and_attributes(self, y, ctx=None):
    x, log_det = self.inverse_and_log_det(y, ctx)
    return x, {"ildj": log_det}

  def _forward_log_det_jacobian(self, x, **kwargs):
    self._cache.forward(x, **kwargs)  # leaves the log-det in the cache
    return -self._cache.forward_attributes(x, **kwargs)["ildj"]

  def _inverse_log_det_jacobian(self, y, **kwargs):
    self._cache.inverse(y, **kwargs)
    return self._cache.inverse_attributes(y, **kwargs)["ildj"]

  def _broadcast_parameters_with_batch_shape(self, batch_shape, x_event_ndims=None):
    # For slices TFP gives every parameter a batch. Without one there is nothing to slice, and weights stay as they are.
    if self.experimental_batch_shape(x_event_ndims=x_event_ndims).rank == 0:
      return self
    return super()._broadcast_parameters_with_batch_shape(batch_shape, x_event_ndims)


def unknown_to_cache(x: Any) -> Any:
  """Return a tensor that TFP's cache has not seen: in eager mode it does not see that weights have changed since."""
  return tf.identity(x) if tf.executing_eagerly() and tf.is_tensor(x) else x


def _check_event_ndims(event_ndims, least):
  if event_ndims is not None:
    check_type("event_ndims", event_ndims, int | tf.Tensor)
    if not tf.is_tensor(event_ndims) and not least <= event_ndims < 2**31:
      raise InputError(f"`event_ndims` must be at least {least}, the dimensions of an event, got {event_ndims}")

"""One evaluation a pass: value and log-det of a bijector from the same call of its network.

TFP asks a bijector for its value and for its log-det separately. Each bijector here computes both
at once and leaves the log-det in TFP's cache, so that a coupling's network runs once.

TFP's cache is keyed by the identity of the tensor, which is right inside one computation and wrong
across two of them: in eager mode, a second call on the same tensor would return the value of the
old weights, recorded on the old gradient tape. So a cached value may only live as long as one pass:
the outermost call works on a fresh tensor that no earlier call can have seen.
"""

import contextlib
import contextvars

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.bijectors import chain as tfp_chain
from tensorflow_probability.python.internal import cache_util

_in_pass = contextvars.ContextVar("flowpp_tf_in_pass", default=False)


@contextlib.contextmanager
def single_pass(value=None):
  """Opens a pass unless one is open; yields `value`, as a fresh tensor if this opened the pass."""
  if _in_pass.get():
    yield value
    return
  token = _in_pass.set(True)
  try:
    yield tf.identity(value) if tf.is_tensor(value) else value
  finally:
    _in_pass.reset(token)


def _pass_if_eager(value):
  # While a tf.function is traced, TFP's own distributions and chains around our bijectors can share
  # the cache between their calls. In eager mode nothing would say where their pass ends.
  return single_pass(value) if tf.executing_eagerly() else contextlib.nullcontext(value)


class _PublicCallsOpenAPass:
  """Mixin: in eager mode, each of the four public evaluations of a bijector opens a pass."""

  def _call_forward(self, x, name, **kwargs):
    with _pass_if_eager(x) as x:
      return super()._call_forward(x, name, **kwargs)

  def _call_inverse(self, y, name, **kwargs):
    with _pass_if_eager(y) as y:
      return super()._call_inverse(y, name, **kwargs)

  def _call_forward_log_det_jacobian(self, x, event_ndims, name, **kwargs):
    with _pass_if_eager(x) as x:
      return super()._call_forward_log_det_jacobian(x, event_ndims, name, **kwargs)

  def _call_inverse_log_det_jacobian(self, y, event_ndims, name, **kwargs):
    with _pass_if_eager(y) as y:
      return super()._call_inverse_log_det_jacobian(y, event_ndims, name, **kwargs)


class SinglePassBijector(_PublicCallsOpenAPass, tfp.bijectors.Bijector):
  """A bijector written as two functions that return the value together with its log-det.

  Subclasses define `_forward_and_log_det(x) -> (y, log|det dy/dx|)` and
  `_inverse_and_log_det(y) -> (x, log|det dx/dy|)`, with log-dets of the shape that TFP asks of
  `_forward_log_det_jacobian`. In eager mode every public call is a pass of its own, unless a
  `Chain` or a `FlowDistribution` of this package has opened one around it.
  """

  _cache = cache_util.BijectorCacheWithGreedyAttrs(
      forward_name="_cached_forward", inverse_name="_cached_inverse")

  def _cached_forward(self, x, **kwargs):
    y, fldj = self._forward_and_log_det(x, **kwargs)
    return y, {"ildj": -fldj}

  def _cached_inverse(self, y, **kwargs):
    x, ildj = self._inverse_and_log_det(y, **kwargs)
    return x, {"ildj": ildj}

  def _forward(self, x, **kwargs):
    return self._forward_and_log_det(x, **kwargs)[0]

  def _inverse(self, y, **kwargs):
    return self._inverse_and_log_det(y, **kwargs)[0]

  def _forward_log_det_jacobian(self, x, **kwargs):
    self._cache.forward(x, **kwargs)  # leaves the log-det in the cache
    return -self._cache.forward_attributes(x, **kwargs)["ildj"]

  def _inverse_log_det_jacobian(self, y, **kwargs):
    self._cache.inverse(y, **kwargs)
    return self._cache.inverse_attributes(y, **kwargs)["ildj"]


class Chain(_PublicCallsOpenAPass, tfp_chain._Chain):  # pylint: disable=protected-access
  """`tfb.Chain` (the last bijector is applied first) whose every call is one pass over its parts.

  The log-det of the chain then runs each part once, and a changed weight is seen by the next call
  on the same tensor, in eager mode too. Keyword arguments go to the parts by name, as in TFP.
  """

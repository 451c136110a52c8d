"""Divide the log-det of a flow among the elements of its input.

An elementwise bijector and the transformed half of a coupling have a log-det for each value. A bijector that mixes
values, such as a 1x1 convolution, has one log-det for all of them, which is divided evenly. A rearrangement moves the
values together with the log-dets that they have collected.
"""

from collections.abc import Callable, Iterator
import math

import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.bijectors.base import evaluate
from flowpp_tf.bijectors.chain import Chain, Invert
from flowpp_tf.bijectors.conditioned import Conditioned
from flowpp_tf.bijectors.coupling import Coupling, forward_and_elementwise_log_det
from flowpp_tf.bijectors.squeeze import Rearrangement
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.tensors import shape_of


def forward_by_element(
  bijector: tfp.bijectors.Bijector, x: tf.Tensor, ctx: EvalContext | None = None
) -> tuple[tf.Tensor, tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
  """Apply a bijector, and return the log-det of each element.

  Args:
    bijector: of the event of `x`; of a chain, each part by itself.
    x: `[B, *event]`.
    ctx: as in `Bijector.forward_and_log_det`.

  Returns:
    y; the log-det of each of its elements in nats, which add up to the log-det of `forward_and_log_det`; and the
    function that moves a tensor of y's shape to where the elements of y come from in x.
  """
  if isinstance(bijector, Conditioned):
    ctx = (ctx or EvalContext()).with_condition(tf.convert_to_tensor(bijector.context))
    bijector = bijector.bijector
  log_dets = tf.zeros_like(x)
  moves = []
  for part in _parts(bijector):
    if _only_moves(part):
      log_dets = evaluate(part, log_dets)[0]
      x = evaluate(part, x)[0]
      moves.append(part)
    elif isinstance(part, Coupling):
      x, log_det = forward_and_elementwise_log_det(part, x, ctx)
      log_dets += log_det
    else:
      least = part.forward_min_event_ndims
      size = math.prod(shape_of(x)[len(x.shape) - least :])
      x, log_det = evaluate(part, x, ctx=ctx)
      for _ in range(least):
        log_det = log_det[..., tf.newaxis]
      log_dets += log_det / size

  def moved_back(y):
    for part in reversed(moves):
      y = evaluate(part, y, inverse=True)[0]
    return y

  return x, log_dets, moved_back


def _parts(bijector) -> Iterator[tfp.bijectors.Bijector]:
  """Yield the parts of a chain, and of chains in it, in the order in which they are applied."""
  if isinstance(bijector, Chain):
    for part in reversed(bijector.bijectors):
      yield from _parts(part)
  else:
    yield bijector


def _only_moves(bijector):
  return isinstance(bijector, Rearrangement) or (isinstance(bijector, Invert) and _only_moves(bijector.bijector))

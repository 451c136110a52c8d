"""Classifier-free guidance (Ho and Salimans 2022) of the parameters of a coupling:

parameters = p(x, c) + w (p(x, c) - p(x, c0))        c: condition with the label, c0: without it
"""

from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.core.context import EvalContext


class Guided(keras.layers.Layer):
  """Extrapolate a conditioner's output from the output without a label, through the output with it.

  Args:
    conditioner: built layer `(x, ctx=...)` that reads `ctx.condition`, such as `Conditioner`. Its weights are shared.
    weight: w, a float or scalar tensor; 0 for the conditioner itself.

  `call(x, ctx)` gives parameters as the conditioner does; the condition of `ctx` is `tf.concat([c, c0], axis=-1)`.

  Examples:
    >>> from flowpp_tf.core.context import EvalContext
    >>> from flowpp_tf.layers.guided import Guided
    >>> network = fpp.layers.Conditioner((8, 4, 1), 2, fpp.layers.NetworkConfig(16, blocks=1), context_channels=3)
    >>> ctx = EvalContext(condition=tf.zeros([2, 1, 1, 2 * 3]))
    >>> Guided(network, weight=1.0)(tf.zeros([2, 8, 4, 1]), ctx=ctx).shape
    TensorShape([2, 8, 4, 2])
  """

  def __init__(self, conditioner: keras.layers.Layer, weight: float | tf.Tensor, **kwargs: Any) -> None:
    super().__init__(**{"dtype": conditioner.dtype_policy, **kwargs})
    self.conditioner = conditioner
    self.weight = weight
    self.built = True

  def call(self, x: Float[tf.Tensor, " n *event"], ctx: EvalContext) -> Float[tf.Tensor, " n *outputs"]:
    condition, without_label = tf.split(ctx.condition, 2, axis=-1)
    guided = self.conditioner(x, ctx=ctx.with_condition(condition))
    unguided = self.conditioner(x, ctx=ctx.with_condition(without_label))
    weight = tf.cast(self.weight, guided.dtype)
    return guided + weight * (guided - unguided)

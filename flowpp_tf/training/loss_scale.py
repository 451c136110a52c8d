"""Dynamic loss scaling for float16 (Micikevicius et al. 2018).

float16 has no numbers between 0 and 6e-8 and none above 65,504; gradients of a scaled loss lie in between. The scheme
is that of `keras.optimizers.LossScaleOptimizer`, which would look at each replica's gradients and decide by a branch
around all updates; here the all-reduced gradients decide, without a branch.
"""

import tensorflow as tf

_START = 2.0**15
_GOOD_STEPS = 2000


class LossScale(tf.Module):
  """A factor that is halved after a step with gradients that are not finite, and doubled after 2000 good ones in a row.

  It is a power of two, so that scaling rounds nothing. The variables are the same on all replicas.

  Attributes:
    value: the factor, float32.
    good_steps: since it last changed.
  """

  def __init__(self) -> None:
    super().__init__(name="loss_scale")
    self.value = replicated_variable(_START, tf.float32, "value")
    self.good_steps = replicated_variable(0, tf.int64, "good_steps")

  def after_step(self, good: tf.Tensor) -> None:
    """Update the factor, in cross-replica context, after a step with finite gradients or not."""
    steps = self.good_steps + 1
    grow = steps >= _GOOD_STEPS
    self.value.assign(self.value * tf.where(good, tf.where(grow, 2.0, 1.0), 0.5))
    self.good_steps.assign(tf.where(good & ~grow, steps, tf.zeros_like(steps)))


def replicated_variable(value: float, dtype: tf.DType, name: str) -> tf.Variable:
  """Return a variable that is not trained and has the same value on all replicas."""
  return tf.Variable(
    value, dtype=dtype, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
  )

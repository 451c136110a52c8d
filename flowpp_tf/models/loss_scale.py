"""The factor of a loss whose gradients float16 can hold: as large as it can be, found as training goes.

float16 has no numbers between 0 and 6e-8 and none above 65,504. Gradients of a scaled loss lie in between
(Micikevicius et al. 2018, "Mixed precision training").
"""

import tensorflow as tf

_START = 2.0**15
_GOOD_STEPS = 2000


class LossScale(tf.Module):
  """Halved after a step whose gradients are not finite, doubled after 2000 in a row that are.

  A power of two, so that scaling rounds nothing. The variables are the same on all replicas.

  Attributes:
    value: the factor, float32.
    good_steps: since it last changed.
  """

  def __init__(self):
    super().__init__(name="loss_scale")
    variable = lambda value, dtype, name: tf.Variable(
        value, dtype=dtype, trainable=False, name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    self.value = variable(_START, tf.float32, "value")
    self.good_steps = variable(0, tf.int64, "good_steps")

  def after_step(self, good):
    """Halves it, counts, or doubles it; in cross-replica context.

    Args:
      good: bool, whether the gradients were finite.
    """
    steps = self.good_steps + 1
    grow = steps >= _GOOD_STEPS
    self.value.assign(self.value * tf.where(good, tf.where(grow, 2.0, 1.0), 0.5))
    self.good_steps.assign(tf.where(good & ~grow, steps, tf.zeros_like(steps)))

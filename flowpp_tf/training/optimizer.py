"""The optimizers of a run and their learning-rate schedule. Adam is Keras', in one kernel per variable."""

import functools
from typing import Any
import weakref

import keras
import tensorflow as tf

from flowpp_tf.config.training import WITHOUT_EPSILON, TrainingConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.training.schedules import PiecewiseSchedule, learning_rate_schedule


@keras.saving.register_keras_serializable("flowpp_tf")
class Adam(keras.optimizers.Adam):
  """`keras.optimizers.Adam` whose update of a variable is a single op, `ResourceApplyAdam`.

  Keras' update has some twenty ops per variable. A model has a thousand small variables: that takes seconds to trace,
  and as many launches in each step on a GPU. Arguments, state and checkpoints are those of Keras, and so are the
  weights, up to rounding. With learning rate 0 a step changes nothing, not even the moments, which Keras would update.

  Raises:
    InputError (a ValueError): for `amsgrad`, which the op does not support.

  Examples:
    >>> from flowpp_tf.training import Adam
    >>> x = tf.Variable(1.0)
    >>> Adam(0.1).apply([tf.constant(2.0)], [x])
    >>> round(float(x), 3)
    0.9
  """

  def __init__(self, *args: Any, **kwargs: Any) -> None:
    super().__init__(*args, **kwargs)
    self._shared: tuple[Any, dict[str, dict[str, tf.Tensor]]] = (lambda: None, {})
    if self.amsgrad:
      raise InputError("`amsgrad` must be False: `keras.optimizers.Adam` has it")

  def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
    """Update a variable.

    Args:
      gradient: of its shape.
      variable: `tf.Variable`, or that of one replica.
      learning_rate: the same tensor for all variables of a step.
    """
    if isinstance(variable, keras.Variable):
      variable = variable.value
    index = self._get_variable_index(variable)
    tf.raw_ops.ResourceApplyAdam(
      var=variable.handle,
      m=self._momentums[index].value.handle,
      v=self._velocities[index].value.handle,
      grad=tf.convert_to_tensor(gradient),
      use_locking=True,
      **self._scalars(variable.dtype.name, learning_rate),
    )

  def _scalars(self, dtype, learning_rate):
    """Return the op's other arguments, computed once for all variables with the same learning rate."""
    of, scalars = self._shared
    if of() is not learning_rate or isinstance(learning_rate, keras.Variable):  # which outlives the step
      scalars = {}
      self._shared = weakref.ref(learning_rate), scalars
    if dtype not in scalars:
      rate, step = tf.cast(learning_rate, dtype), tf.cast(self.iterations.value + 1, dtype)
      beta1, beta2, epsilon = (tf.constant(value, dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
      unless_skipped = lambda beta: tf.where(rate == 0, tf.ones_like(beta), beta)
      scalars[dtype] = dict(
        lr=rate,
        beta1=unless_skipped(beta1),
        beta2=unless_skipped(beta2),
        epsilon=epsilon,
        beta1_power=beta1**step,
        beta2_power=beta2**step,
      )
    return scalars[dtype]


_OPTIMIZERS = {
  "adam": Adam,
  "adam_95": functools.partial(Adam, beta_2=0.95),
  "adamw": functools.partial(keras.optimizers.AdamW, beta_2=0.95),
  "lion": keras.optimizers.Lion,
  "muon": keras.optimizers.Muon,
  "sgd": keras.optimizers.SGD,
}


def schedule_of(config: TrainingConfig) -> PiecewiseSchedule:
  """Return the learning-rate schedule of a run."""
  return learning_rate_schedule(config.schedule, config.learning_rate, config.warmup_steps, config.steps)


def make_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
  """Return the optimizer of a run with its learning-rate schedule."""
  epsilon = {} if config.optimizer in WITHOUT_EPSILON else {"epsilon": config.adam_epsilon}
  return _OPTIMIZERS[config.optimizer](schedule_of(config), **epsilon)

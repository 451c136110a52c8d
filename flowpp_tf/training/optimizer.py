"""The optimizers of a run and their learning-rate schedule. Adam is Keras', in one kernel per variable."""

from collections.abc import Callable
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

  Keras' update has some twenty ops per variable. A model has a thousand small variables: so many ops take seconds to
  trace, and each of them is a launch in every step on a GPU. Arguments, state and checkpoints are the same as in Keras,
  and the weights agree up to rounding. With learning rate 0 a step changes nothing; Keras would change the moments.

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
    self._scalars_by_dtype: dict[str, dict[str, tf.Tensor]] = {}
    self._scalars_rate: Callable[[], Any] = lambda: None  # weak reference to the learning rate of these scalars
    if self.amsgrad:
      raise InputError("`amsgrad` must be False: `keras.optimizers.Adam` has it")

  def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
    """Update a variable.

    Args:
      gradient: gradient of the variable, of the same shape.
      variable: `tf.Variable`; under a strategy, the component of one replica.
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
    # A `keras.Variable` outlives the step, and its value changes.
    if self._scalars_rate() is not learning_rate or isinstance(learning_rate, keras.Variable):
      self._scalars_by_dtype = {}
      self._scalars_rate = weakref.ref(learning_rate)
    if dtype not in self._scalars_by_dtype:
      self._scalars_by_dtype[dtype] = self._new_scalars(dtype, learning_rate)
    return self._scalars_by_dtype[dtype]

  def _new_scalars(self, dtype, learning_rate):
    rate = tf.cast(learning_rate, dtype)
    step = tf.cast(self.iterations.value + 1, dtype)
    beta1 = tf.constant(self.beta_1, dtype)
    beta2 = tf.constant(self.beta_2, dtype)
    one = tf.ones([], dtype)
    is_skipped = rate == 0
    return dict(
      lr=rate,
      beta1=tf.where(is_skipped, one, beta1),
      beta2=tf.where(is_skipped, one, beta2),
      epsilon=tf.constant(self.epsilon, dtype),
      beta1_power=beta1**step,
      beta2_power=beta2**step,
    )


_OPTIMIZERS = {
  "adam": Adam,
  "adam_95": functools.partial(Adam, beta_2=0.95),
  "adamw": functools.partial(keras.optimizers.AdamW, beta_2=0.95),
  "lion": keras.optimizers.Lion,
  "muon": keras.optimizers.Muon,
  "sgd": keras.optimizers.SGD,
}


def make_schedule(config: TrainingConfig) -> PiecewiseSchedule:
  """Return the learning-rate schedule of a run."""
  return learning_rate_schedule(config.schedule, config.learning_rate, config.warmup_steps, config.steps)


def make_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
  """Return the optimizer of a run with its learning-rate schedule."""
  make = _OPTIMIZERS[config.optimizer]
  schedule = make_schedule(config)
  if config.optimizer in WITHOUT_EPSILON:
    return make(schedule)
  return make(schedule, epsilon=config.adam_epsilon)

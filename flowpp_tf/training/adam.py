"""Keras' Adam, in one kernel a variable."""

import keras
import tensorflow as tf

from flowpp_tf.errors import InputError


@keras.saving.register_keras_serializable("flowpp_tf")
class Adam(keras.optimizers.Adam):
  """`keras.optimizers.Adam` whose update of a variable is a single op, `ResourceApplyAdam`.

  Keras writes the update out in some twenty ops a variable, which take seconds to trace, and as many
  launches a step on a GPU, where a model has a thousand small variables. Arguments, state and checkpoints
  are Keras' own, and so are the weights but for rounding.

  Raises:
    InputError (a ValueError): for `amsgrad`, which the op does not know.
  """

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self._condition = True
    if self.amsgrad:
      raise InputError("`amsgrad` must be False: `keras.optimizers.Adam` has it")

  def apply_if(self, condition, gradients, variables):
    """`apply`, or where the condition, bool, does not hold, a step that changes nothing but its number.

    There is no branch: gradients must then be 0, and rates are made so.

    Raises:
      InputError (a ValueError): for an optimizer that does more in a step than that.
    """
    for name in ("weight_decay", "use_ema", "gradient_accumulation_steps"):
      if getattr(self, name):
        raise InputError(f"`{name}` must be off to train a model that skips steps; "
                         "`keras.optimizers.Adam` has it")
    self._condition = condition
    try:
      self.apply(gradients, variables)
    finally:
      self._condition = True

  def _backend_update_step(self, grads, trainable_variables, learning_rate):
    # What the variables share is computed once, for each dtype that they have.
    dtypes = {tf.as_dtype(v.dtype).name for v in trainable_variables}
    super()._backend_update_step(grads, trainable_variables, {
        dtype: self._scalars(dtype, learning_rate) for dtype in dtypes})

  def update_step(self, gradient, variable, scalars):
    """Updates a variable.

    Args:
      gradient: of its shape.
      variable: `tf.Variable`, or that of one replica.
      scalars: `dict`, by the name of a dtype, of the op's other arguments.
    """
    index = self._get_variable_index(variable)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle, m=self._momentums[index].value.handle,
        v=self._velocities[index].value.handle, grad=tf.convert_to_tensor(gradient),
        use_locking=True, **scalars[variable.dtype.name])

  def _scalars(self, dtype, learning_rate):
    beta1, beta2, epsilon = (
        tf.convert_to_tensor(value, dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
    lr, step = tf.cast(learning_rate, dtype), tf.cast(self.iterations.value + 1, dtype)
    if_not = lambda value, other: tf.where(self._condition, value, tf.cast(other, dtype))
    return dict(lr=if_not(lr, 0), beta1=if_not(beta1, 1), beta2=if_not(beta2, 1), epsilon=epsilon,
                beta1_power=beta1**step, beta2_power=beta2**step)

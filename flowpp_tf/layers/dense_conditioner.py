"""The network inside a coupling of vectors: residual blocks of dense layers.

h = W f([x, c]) + b                        f(x) = x, but sign(x) (10 + log(|x| - 9)) where |x| > 10
h = h + W2 elu(W1 elu(h) + b1) + b2       for each block
parameters = W elu(h) + b
"""

from typing import Any

from jaxtyping import Float
import keras
import tensorflow as tf

from flowpp_tf.core.checks import INT32_MAX, as_array, check_all_finite, check_count, check_tensor, check_type
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.layers.blocks import variables_of
from flowpp_tf.layers.init_norm import InitNormDense
from flowpp_tf.types import TensorLike

_INIT_SCALE = 0.1  # of the last layers: couplings and blocks start near the identity


@keras.saving.register_keras_serializable("flowpp_tf")
class DenseConditioner(keras.layers.Layer):
  """Residual dense network that gives a coupling of vectors its parameters.

  Args:
    size: values of the input, so that the layer is built when constructed; 0 for a network of the context only.
    outputs: values of the output.
    hidden: width.
    blocks: residual blocks.
    context_size: values of the context's condition, `[..., context_size]`; 0 for none.
    output_mean: `[outputs]`, means of the outputs after data-dependent initialisation; None for 0.

  `call(x [N, size], ctx=EvalContext())` gives `[N, outputs]`. The weights of the last layer begin at random, not at 0:
  the components of a mixture must differ to learn.

  Raises:
    InputError (a ValueError): if a size is not an integer, too small or too large; from a call, if a condition is
      missing, not expected, or of another size.

  Examples:
    >>> network = fpp.layers.DenseConditioner(3, outputs=3 * fpp.bijectors.num_parameters("mixture_logistic", 8))
    >>> network(tf.zeros([2, 3])).shape
    TensorShape([2, 78])
  """

  far = 10.0  # standard deviations: further out, outputs would grow with the input until samples of a flow overflow

  def __init__(
    self,
    size: int,
    outputs: int,
    hidden: int = 64,
    blocks: int = 2,
    context_size: int = 0,
    output_mean: TensorLike | None = None,
    **kwargs: Any,
  ) -> None:
    super().__init__(**kwargs)
    check_count("size", size, 0)
    check_count("outputs", outputs, high=INT32_MAX)
    check_count("hidden", hidden)
    check_count("blocks", blocks, 0)
    check_count("context_size", context_size, 0)
    sizes = dict(size=size, outputs=outputs, hidden=hidden, blocks=blocks, context_size=context_size)
    self._config = {name: int(value) for name, value in sizes.items()}
    self.size = size
    self.context_size = context_size
    self._output_mean = None
    if output_mean is not None:
      self._output_mean = as_array("output_mean", output_mean, [outputs])
      check_all_finite("output_mean", self._output_mean)

    def dense(units, inputs, name, scale=1.0):
      layer = InitNormDense(units, init_scale=scale, name=name, dtype=self.dtype_policy)
      layer.build((None, inputs))
      return layer

    with keras.name_scope(self.name, caller=self):  # part of the weights' paths
      self.input_layer = dense(hidden, max(size + context_size, 1), "input_layer")
      self.inner = [dense(hidden, hidden, f"block_{i}_inner") for i in range(blocks)]
      self.outer = [dense(hidden, hidden, f"block_{i}_outer", _INIT_SCALE) for i in range(blocks)]
      self.output_layer = dense(outputs, hidden, "output_layer", _INIT_SCALE)
    self._in_lists = variables_of([*self.inner, *self.outer])
    self.built = True

  def call(self, x: Float[tf.Tensor, "*n c"], ctx: EvalContext = EvalContext()) -> Float[tf.Tensor, "*n outputs"]:
    check_type("ctx", ctx, EvalContext)
    check_tensor("x", x, [..., self.size])
    has_input = self.size + self.context_size > 0
    normalize = ctx.initialize and has_input  # without an input, the outputs are constant
    x = self._with_context(x, ctx.condition)
    if not has_input:
      x = tf.reduce_sum(x, axis=-1, keepdims=True)  # a sum of no values: 0
    h = self.input_layer(self._compressed(x), initialize=normalize)
    for inner, outer in zip(self.inner, self.outer):
      hidden = inner(tf.nn.elu(h), initialize=normalize)
      h += outer(tf.nn.elu(hidden), initialize=normalize)
    parameters = self.output_layer(tf.nn.elu(h), initialize=normalize)
    if ctx.initialize and self._output_mean is not None:
      self.output_layer.bias.assign_add(self._output_mean)
      parameters += tf.constant(self._output_mean, parameters.dtype)
    return parameters

  def _with_context(self, x, context):
    """Return [x, c], with the context broadcast over the batch of x."""
    size = 0 if context is None else context.shape[-1]
    if size != self.context_size:
      raise InputError(f"this conditioner has a context of {self.context_size} values, got {size or 'none'}")
    if context is None:
      return x
    context_shape = tf.concat([tf.shape(x)[:-1], [size]], axis=0)
    context = tf.broadcast_to(tf.cast(context, x.dtype), context_shape)
    return tf.concat([x, context], axis=-1)

  def _compressed(self, x):
    """Return f(x), which grows only by the logarithm beyond `far`."""
    near = tf.clip_by_value(x, -self.far, self.far)
    return near + near / self.far * tf.math.log1p(tf.abs(x - near))

  def get_config(self) -> dict[str, Any]:
    config = {**super().get_config(), **self._config}
    if self._output_mean is not None:
      config["output_mean"] = self._output_mean.tolist()
    return config

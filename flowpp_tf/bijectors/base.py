"""Value and log-det in one call; the four methods of TFP follow from it.

    y, log_det = bijector.forward_and_log_det(x)     log_det = log|det dy/dx|
    x, log_det = bijector.inverse_and_log_det(y)     log_det = log|det dx/dy|

as in distrax. `Chain`, `Invert`, `FlowDistribution` and the model compose these in plain loops, by `evaluate`. For
TFP's own `Chain` and `TransformedDistribution`, which ask for value and log-det separately, the log-det is left in
TFP's cache.
"""

from collections.abc import Callable
import contextlib
import functools
import math
import re
from typing import Any

from jaxtyping import Float
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import cache_util

from flowpp_tf.core.checks import as_tensor, check_all_finite, check_event, check_type
from flowpp_tf.core.context import EvalContext
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.tensors import shape_of
from flowpp_tf.types import TensorLike


class Bijector(tfp.bijectors.Bijector):
  """Base class of bijectors that return the value together with its log-det.

  Subclasses define `_forward_and_log_det(x, ctx)` and `_inverse_and_log_det(y, ctx)`, whose log-dets are those of
  events of `forward_min_event_ndims` and `inverse_min_event_ndims` dimensions, in nats. Where both directions share
  their text, they define `_evaluate(x, inverse, ctx)` in place of the two. As in TFP, constructors take
  `validate_args`, a Python `bool`, and `name`, a Python `str`; so do those of the distributions.

  The methods here check what they are given. Compositions call `evaluate`, which does not.

  Examples:
    >>> class Double(fpp.bijectors.Bijector):
    ...   def __init__(self):
    ...     super().__init__(forward_min_event_ndims=0)
    ...
    ...   def _forward_and_log_det(self, x, ctx):
    ...     return 2 * x, tf.math.log(2.0)
    ...
    ...   def _inverse_and_log_det(self, y, ctx):
    ...     return y / 2, -tf.math.log(2.0)
    >>> float(Double().forward(3.0)), round(float(Double().inverse_log_det_jacobian(6.0)), 3)
    (6.0, -0.693)
  """

  _known_parameters: dict[str, Any] = {}  # each `Parameter` of a class by its name

  def __init__(self, *args: Any, parameters: dict[str, Any] | None = None, **kwargs: Any) -> None:
    # Arrays may change later, and with them what the bijector and its copies are equal to.
    parameters = parameters and {name: copied(value) for name, value in parameters.items()}
    super().__init__(*args, parameters=parameters, **kwargs)

  def forward_and_log_det(
    self, x: TensorLike, ctx: EvalContext | None = None
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Return y and log|det dy/dx|.

    Args:
      x: `[..., *event]`.
      ctx: what the evaluation carries besides its input; None for an unconditional one outside of training.

    Returns:
      y, and the log-det in nats per event of `forward_min_event_ndims` dimensions. A log-det that does not depend on x
      may lack dimensions of the batch.
    """
    return self._checked_evaluation(self._to_tensor("x", x), False, ctx)

  def inverse_and_log_det(
    self, y: TensorLike, ctx: EvalContext | None = None
  ) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
    """Return x and log|det dx/dy|; arguments and log-det as in `forward_and_log_det`."""
    return self._checked_evaluation(self._to_tensor("y", y), True, ctx)

  def _evaluate(self, x, inverse, ctx):
    """Return the value and the log-det of one direction, after the initialization that the context asks for."""
    if ctx is not None and ctx.initialize:
      self._fit(x, inverse)
    return self._inverse_and_log_det(x, ctx) if inverse else self._forward_and_log_det(x, ctx)

  def _fit(self, x, inverse):
    """Set parameters by the first batch that is evaluated in this direction."""

  def _initial_batch(self, x, shape, batched=True):
    """Return the `x` of `initialize` as a tensor `[..., *shape]`; raise an `InputError` for other values."""
    x = as_tensor("x", x, self.dtype)
    check_event("x", x.shape, tf.TensorShape(shape))
    if 0 in x.shape or (batched and x.shape.rank <= len(shape)):
      raise InputError(f"`x` must be a batch of values, got shape {[*x.shape]}")
    check_all_finite("x", x)
    return x

  def _to_tensor(self, name, value):
    tensor = as_tensor(name, value, self.dtype, tf.float32)
    least = self.forward_min_event_ndims if name == "x" else self.inverse_min_event_ndims
    if tensor.shape.rank is not None and tensor.shape.rank < least:
      raise InputError(f"`{name}` must have the {least} dimensions of an event, got shape {[*tensor.shape]}")
    return tensor

  def _checked_evaluation(self, x, inverse, ctx):
    name, event_ndims = ("y", self.inverse_min_event_ndims) if inverse else ("x", self.forward_min_event_ndims)
    return checked_evaluation(self, name, x, self, inverse, event_ndims, ctx)

  def _initialize(self, parameters: dict[str, Any], event_ndims: int = 0, **kwargs: Any) -> None:
    """Keep the arguments of a constructor as the class's `Parameter`s say, and call the constructor of TFP's class.

    Tensors are converted to one dtype, float32 if they have none; variables stay as they are, and are read when they
    are used. The `tf.Variable`s of Keras variables are kept too, so that `trainable_variables`, checkpoints and
    SavedModels find them.

    Args:
      parameters: the arguments by name, `locals()`.
      event_ndims: dimensions of an event.
      **kwargs: of TFP's constructor.

    Raises:
      InputError (a ValueError): if tensors are not of real numbers, or have several dtypes.
    """
    known = self._known_parameters
    values = {key: value for key, value in parameters.items() if key in known}
    tensors = {key: value for key, value in values.items() if isinstance(known[key], TensorParameter)}
    with tf.name_scope(parameters["name"]) as name:
      dtype = _common_dtype(tensors) if tensors else None
      for key, value in values.items():
        of_tensor = key in tensors and not is_variable(value)
        setattr(self, f"_{key}", as_tensor(key, value, dtype) if of_tensor else copied(value))
      self._keras_variables = [value.value for value in tensors.values() if isinstance(value, keras.Variable)]
      self._check_shapes(**{key: getattr(self, f"_{key}") for key in tensors})
      Bijector.__init__(
        self,
        forward_min_event_ndims=event_ndims,
        validate_args=parameters["validate_args"],
        parameters=parameters,
        name=name,
        **{"dtype": dtype, **kwargs},
      )

  def _check_shapes(self, **tensors):
    """Raise an `InputError` if the shapes of the `TensorParameter`s do not fit each other."""

  @classmethod
  def _parameter_properties(cls, dtype):
    known = cls._known_parameters.items()
    return {key: parameter.properties(dtype) for key, parameter in known if isinstance(parameter, TensorParameter)}

  # --- TFP's methods ----------------------------------------------------------------------------

  # For slices TFP gives every parameter a batch. Without one there is nothing to slice, and weights stay what they are.
  def _broadcast_parameters_with_batch_shape(self, batch_shape, x_event_ndims=None):
    if self.experimental_batch_shape(x_event_ndims=x_event_ndims).rank == 0:
      return self
    return super()._broadcast_parameters_with_batch_shape(batch_shape, x_event_ndims)

  # In eager mode TFP's cache does not see that weights have changed since it saw a tensor.
  def forward(self, x: TensorLike, name: str = "forward", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    return super().forward(_unknown_to_cache(self._to_tensor("x", x)), name=name, **kwargs)

  def inverse(self, y: TensorLike, name: str = "inverse", **kwargs: Any) -> Float[tf.Tensor, "..."]:
    return super().inverse(_unknown_to_cache(self._to_tensor("y", y)), name=name, **kwargs)

  def forward_log_det_jacobian(
    self, x: TensorLike, event_ndims: int | None = None, name: str = "forward_log_det_jacobian", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    _check_event_ndims(event_ndims, self.forward_min_event_ndims)
    x = _unknown_to_cache(self._to_tensor("x", x))
    return super().forward_log_det_jacobian(x, event_ndims, name=name, **kwargs)

  def inverse_log_det_jacobian(
    self, y: TensorLike, event_ndims: int | None = None, name: str = "inverse_log_det_jacobian", **kwargs: Any
  ) -> Float[tf.Tensor, "..."]:
    _check_event_ndims(event_ndims, self.inverse_min_event_ndims)
    y = _unknown_to_cache(self._to_tensor("y", y))
    return super().inverse_log_det_jacobian(y, event_ndims, name=name, **kwargs)

  _cache = cache_util.BijectorCacheWithGreedyAttrs(
    forward_name="_forward_and_attributes", inverse_name="_inverse_and_attributes"
  )

  def _forward_and_attributes(self, x, ctx=None):
    y, log_det = self._checked_evaluation(x, False, ctx)
    return y, {"ildj": -log_det}

  def _inverse_and_attributes(self, y, ctx=None):
    x, log_det = self._checked_evaluation(y, True, ctx)
    return x, {"ildj": log_det}

  def _forward_log_det_jacobian(self, x, **kwargs):
    self._cache.forward(x, **kwargs)  # leaves the log-det in the cache
    return -self._cache.forward_attributes(x, **kwargs)["ildj"]

  def _inverse_log_det_jacobian(self, y, **kwargs):
    self._cache.inverse(y, **kwargs)
    return self._cache.inverse_attributes(y, **kwargs)["ildj"]


class Elementwise(Bijector):
  """Base class of increasing elementwise maps: a subclass is its formula, and the log of its slope at each value.

  Its constructor calls `_initialize(locals())`; its `TensorParameter`s are broadcast against each other and `x`.
  """

  def _check_shapes(self, **tensors):
    if tensors:
      check_broadcast(**tensors)

  @classmethod
  def _is_increasing(cls):
    return True


def _unknown_to_cache(x):
  return tf.identity(x) if tf.executing_eagerly() and tf.is_tensor(x) else x


def _check_event_ndims(event_ndims, least):
  if event_ndims is not None:
    check_type("event_ndims", event_ndims, int | tf.Tensor)
    if not tf.is_tensor(event_ndims) and not least <= event_ndims < 2**31:
      raise InputError(f"`event_ndims` must be at least {least}, the dimensions of an event, got {event_ndims}")


def evaluate(
  bijector: tfp.bijectors.Bijector,
  x: tf.Tensor,
  inverse: bool = False,
  event_ndims: int | None = None,
  ctx: EvalContext | None = None,
) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
  """Return the value and the log-det of any bijector, of this package or TFP's own. Nothing is checked.

  Args:
    bijector: `tfp.bijectors.Bijector`.
    x: `[..., *event]`, of the bijector's dtype.
    inverse: whether to evaluate the inverse at x.
    event_ndims: dimensions of an event, over which the log-det is summed; None for those of the bijector.
    ctx: as in `Bijector.forward_and_log_det`; TFP's own bijectors do not get it.
  """
  least, of_result = bijector.forward_min_event_ndims, bijector.inverse_min_event_ndims
  if inverse:
    least, of_result = of_result, least
  if isinstance(bijector, Bijector):
    with tf.name_scope(f"{bijector.name}/{'inverse' if inverse else 'forward'}"):
      y, log_det = bijector._evaluate(x, inverse, ctx)
  else:
    x = _unknown_to_cache(x)
    if inverse:
      y, log_det = bijector.inverse(x), bijector.inverse_log_det_jacobian(x, least)
    else:
      y, log_det = bijector.forward(x), bijector.forward_log_det_jacobian(x, least)
  return y, _sum_log_det(log_det, y, of_result, 0 if event_ndims is None else event_ndims - least)


def _sum_log_det(log_det, output, least, count):
  """Sum a log-det over the `count` dimensions of the output that precede its last `least`, the bijector's own event."""
  if not count:
    return log_det
  last = len(output.shape) - least
  shape = shape_of(output)[last - count : last]
  if log_det.shape.rank == 0:
    return log_det * tf.cast(math.prod(shape), log_det.dtype)
  is_known = output.shape[last - count : last].is_fully_defined()
  if not is_known or log_det.shape[-count:] != shape:
    # It is constant along some of them.
    log_det = tf.broadcast_to(log_det, tf.broadcast_dynamic_shape(tf.shape(log_det), shape))
  return tf.reduce_sum(log_det, axis=list(range(-count, 0)))


def checked_evaluation(
  owner: Any, name: str, x: tf.Tensor, bijector: Any, inverse: bool, event_ndims: int, ctx: EvalContext | None
) -> tuple[Float[tf.Tensor, "..."], Float[tf.Tensor, "..."]]:
  """Return `evaluate(bijector, x, inverse, event_ndims, ctx)`, for the doors of bijectors and flows.

  Args:
    owner: bijector or distribution that was called.
    name: of its argument x.
    x: as in `evaluate`, and so are the others.

  Raises:
    InputError (a ValueError): that names x, in place of an error from the evaluation, except for those of validation;
      or if parameters broadcast the events of x.
  """
  check_type("ctx", ctx, EvalContext | None)
  found = x.shape if x.shape.rank is None else [*x.shape]
  try:
    y, log_det = evaluate(bijector, x, inverse, event_ndims, ctx)
  except (ValueError, tf.errors.InvalidArgumentError) as error:
    if isinstance(error, InputError) or owner.validate_args:
      raise
    raise InputError(
      f"`{name}` must be what {owner.name!r} can evaluate, got shape {found}: {_cause(error)}"
    ) from error
  if event_ndims and None not in (x.shape.rank, y.shape.rank):
    event = x.shape[x.shape.rank - event_ndims :]
    expected = bijector.inverse_event_shape(event) if inverse else bijector.forward_event_shape(event)
    result = y.shape[y.shape.rank - expected.rank :]
    if not expected.is_compatible_with(result):
      sizes = ", ".join(map(str, result))
      raise InputError(f"`{name}` must be of shape [..., {sizes}], to which parameters broadcast it, got {found}")
  return y, log_det


def _cause(error):
  """Return what an error of a user's network says, as one line without the headings of Keras and TensorFlow."""
  paragraphs = [" ".join(paragraph.split()) for paragraph in str(error).split("\n\n")]
  text = next((p for p in paragraphs if not p.startswith("Exception encountered when calling")), paragraphs[0])
  return re.sub(r"\x1b\[\d*m|\{\{.*?\}\} ", "", text)[:200]


# --- Parameters ---------------------------------------------------------------------------------


def copied(value: Any) -> Any:
  """Return arrays, and lists of them, as copies that nobody else can change; anything else as it is."""
  if isinstance(value, list):
    return [copied(part) for part in value]
  return value.copy() if isinstance(value, np.ndarray) else value


class Parameter(property):
  """Property of a bijector's parameter, which the bijector keeps under the same name with an underscore."""

  def __init__(self, doc: str) -> None:
    super().__init__(fget=lambda bijector: getattr(bijector, self._attribute), doc=doc)

  def __set_name__(self, owner: type[Bijector], name: str) -> None:
    self._attribute = f"_{name}"
    owner._known_parameters = {**owner._known_parameters, name: self}


class TensorParameter(Parameter):
  """Parameter of real numbers: a tensor, or a variable of TensorFlow or Keras.

  Args:
    doc: docstring of the property.
    size: of the last axis where TFP draws the parameter, if that axis is one event; None if the parameter is
      elementwise.
    low: function of the dtype, the bound below which TFP does not draw it; None for any real numbers.
  """

  def __init__(self, doc: str, size: int | None = None, low: Callable[[tf.DType], float] | None = None) -> None:
    super().__init__(doc)
    self._size, self._low = size, low

  def properties(self, dtype: tf.DType) -> tfp.util.ParameterProperties:
    """Return what TFP has to know of the parameter."""
    more: dict[str, Any] = {}
    if self._size is not None:
      more = dict(event_ndims=1, shape_fn=lambda sample_shape: tf.concat([sample_shape, [self._size]], axis=0))
    if low := self._low:
      more["default_constraining_bijector_fn"] = lambda: tfp.bijectors.Softplus(low=tf.constant(low(dtype), dtype))
    return tfp.util.ParameterProperties(**more)


# All composite tensors of TFP.
COMPOSITE = (
  tfp.experimental.AutoCompositeTensor,
  tfp.distributions.TransformedDistribution,
  tfp.distributions.JointDistributionNamed,
  tfp.distributions.JointDistributionNamedAutoBatched,
  tfp.distributions.JointDistributionSequential,
  tfp.distributions.JointDistributionSequentialAutoBatched,
  tfp.distributions.GaussianProcess,
)


def is_composite(part: Any) -> bool:
  """Return whether a bijector or a distribution can go in and out of a `tf.function`; one of Keras variables cannot."""
  return isinstance(part, COMPOSITE) and not getattr(part, "_keras_variables", None)


def check_broadcast(**tensors: Any) -> None:
  """Raise an `InputError` unless tensors can be broadcast against each other; their names are those in the message."""
  shapes = {name: tf.TensorShape(tensor.shape) for name, tensor in tensors.items()}
  try:
    functools.reduce(tf.broadcast_static_shape, shapes.values())
  except ValueError:
    found = ", ".join(f"`{name}` {[*shape]}" for name, shape in shapes.items())
    raise InputError(f"shapes must be those of tensors that can be broadcast, got {found}") from None


def check_variables(owner: str, **parameters: Any) -> None:
  """Raise an `InputError` unless parameters are variables of one shape, which `owner.initialize` can set."""
  for name, value in parameters.items():
    if not hasattr(value, "assign"):
      raise InputError(f"`{owner}.initialize` needs `{name}` to be a tf.Variable, got {value}")
  if len({tuple(value.shape) for value in parameters.values()}) > 1:
    found = ", ".join(f"`{name}` {[*value.shape]}" for name, value in parameters.items())
    raise InputError(f"`{owner}.initialize` needs variables of one shape, got {found}")


def _common_dtype(values):
  """The dtype of parameters, float32 if they have none."""
  dtypes = {name: tf.as_dtype(value.dtype) for name, value in values.items() if _has_real_dtype(value)}
  if len({*dtypes.values()}) > 1:
    found = ", ".join(f"`{name}` {dtype.name}" for name, dtype in dtypes.items())
    raise InputError(f"parameters must have one dtype, got {found}")
  return next(iter(dtypes.values()), tf.float32)


def _has_real_dtype(value):
  """Whether a parameter says the dtype of all; what says none, and integers in arrays, are cast to it."""
  if isinstance(value, np.ndarray) and value.dtype.kind != "f":
    return False
  with contextlib.suppress(TypeError):  # of an array of other things
    return hasattr(value, "dtype") and tf.as_dtype(value.dtype).is_floating
  return False


def is_variable(value: Any) -> bool:
  """Return whether a parameter is read when it is used, as variables are."""
  return isinstance(value, (tf.Variable, keras.Variable, tfp.util.DeferredTensor))

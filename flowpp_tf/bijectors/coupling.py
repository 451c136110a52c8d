"""Coupling layer, Flow++ section 3.2 (after RealNVP):

    x1, x2 = halves of the last axis of x
    y1 = x1,   y2 = bijector_fn(conditioner(x1))(x2)

The conditioner is any callable, the transformation any elementwise bijector; neither knows the other.
"""

import tensorflow as tf

from flowpp_tf.bijectors.affine import BoundedAffine
from flowpp_tf.bijectors.mixture_logistic_cdf import LogitMixtureLogisticCDF
from flowpp_tf.bijectors.single_pass import Chain
from flowpp_tf.bijectors.single_pass import SinglePassBijector

_SMALLEST_LOG_SCALE = -7.0


class Coupling(SinglePassBijector):
  """Keeps the first half of the last axis and transforms the second, given the first.

  Args:
    conditioner: callable `(x1, **kwargs) -> parameters`, called once a pass with
      `x1 [N, ..., C / 2]`, all batch dimensions flattened into one. If it has `variables` (a Keras
      layer, built), they are tracked: `coupling.trainable_variables` lists them. It may compute in a
      lower precision, as under Keras's policy "mixed_bfloat16": what it gives is cast to `dtype`.
    bijector_fn: callable `parameters -> elementwise bijector` that transforms `x2 [N, ..., C / 2]`.
    event_ndims: rank of an event: 3 for images `[H, W, C]`, 1 for vectors.
    dtype: of the values.
    validate_args: Python `bool`.
    name: Python `str`.

  Keyword arguments of the evaluations go to the conditioner. `context`, if there is one, is
  broadcast over the batch dimensions of `x`. The log-det is in nats an event.

  Raises:
    ValueError: if `conditioner` is a Keras layer that is not built, whose weights could not be
      tracked; from an evaluation, if the last axis cannot be halved.
  """

  def __init__(self, conditioner, bijector_fn, event_ndims=3, dtype=tf.float32,
               validate_args=False, name="coupling"):
    parameters = dict(locals())
    if not getattr(conditioner, "built", True):
      raise ValueError(f"`conditioner` must be built before a `Coupling` is made of it, got the layer "
                       f"{conditioner} that is not")
    with tf.name_scope(name) as name:
      self._conditioner = conditioner
      self._bijector_fn = bijector_fn
      # A Keras layer is no tf.Module and a Keras variable no tf.Variable: hold the latter.
      self._conditioner_variables = [
          v if isinstance(v, tf.Variable) else v.value
          for v in getattr(conditioner, "variables", ())]
      super().__init__(forward_min_event_ndims=event_ndims, dtype=tf.as_dtype(dtype),
                       validate_args=validate_args, parameters=parameters, name=name)

  @property
  def conditioner(self):
    """The callable `x1 -> parameters`."""
    return self._conditioner

  @property
  def bijector_fn(self):
    """The callable `parameters -> elementwise bijector`."""
    return self._bijector_fn

  @property
  def event_ndims(self):
    """Rank of an event."""
    return self.forward_min_event_ndims

  @classmethod
  def _parameter_properties(cls, dtype):
    return dict()

  def _forward_and_log_det(self, x, **kwargs):
    return self._transform(x, lambda bijector, x2, event_ndims: (
        bijector.forward(x2), bijector.forward_log_det_jacobian(x2, event_ndims)), **kwargs)

  def _inverse_and_log_det(self, y, **kwargs):
    return self._transform(y, lambda bijector, y2, event_ndims: (
        bijector.inverse(y2), bijector.inverse_log_det_jacobian(y2, event_ndims)), **kwargs)

  def _transform(self, x, evaluate, context=None, **kwargs):
    if (x.shape[-1] or 0) % 2:
      raise ValueError(f"`Coupling` needs an even last axis, got shape {x.shape}")
    event_ndims = self.forward_min_event_ndims
    batch_shape = tf.shape(x)[:-event_ndims]
    flatten = lambda t, shape: tf.reshape(t, tf.concat([[-1], shape[-event_ndims:]], axis=0))
    if context is not None:
      context_shape = tf.concat([batch_shape, tf.shape(context)[-event_ndims:]], axis=0)
      kwargs["context"] = flatten(tf.broadcast_to(context, context_shape), context.shape)
    x1, x2 = tf.split(flatten(x, x.shape), 2, axis=-1)
    parameters = tf.nest.map_structure(
        lambda p: tf.cast(p, x.dtype), self.conditioner(x1, **kwargs))
    bijector = self.bijector_fn(parameters)
    y2, log_det = evaluate(bijector, x2, event_ndims)
    y = tf.reshape(tf.concat([x1, y2], axis=-1), tf.shape(x))
    return tf.ensure_shape(y, x.shape), tf.reshape(log_det, batch_shape)


def num_parameters(coupling, components):
  """Parameters that a conditioner gives for each transformed value.

  Args:
    coupling: "mixture_logistic" (2 + 3 `components`) or "affine" (2).
    components: K, the number of logistics in the mixture.

  Raises:
    ValueError: if `coupling` is neither.
  """
  if coupling not in ("mixture_logistic", "affine"):
    raise ValueError(f"`coupling` must be mixture_logistic or affine, got {coupling!r}")
  return 2 + 3 * components if coupling == "mixture_logistic" else 2


def affine_coupling_bijector(parameters):
  """The paper's affine coupling.

  Args:
    parameters: `[..., C 2]`; for each value in the order scale, shift.

  Raises:
    ValueError: if the last axis is odd.
  """
  s, t = tf.unstack(_per_value(parameters, 2), axis=-1)
  return BoundedAffine(scale_logit=s, shift=t)


def mixture_logistic_coupling_bijector(parameters, components):
  """Equation 11: affine after the logit of the mixture CDF.

  Args:
    parameters: `[..., C (2 + 3 K)]`; for each value in the order scale, shift, K logits, K means,
      K log scales. Log scales are kept >= -7.
    components: K.

  Raises:
    ValueError: if the last axis is no multiple of 2 + 3 K.
  """
  parameters = _per_value(parameters, 2 + 3 * components)
  s, t, logits, loc, log_scale = tf.split(parameters, [1, 1, *[components] * 3], axis=-1)
  s, t = tf.squeeze(s, axis=-1), tf.squeeze(t, axis=-1)
  log_scale = tf.maximum(log_scale, tf.constant(_SMALLEST_LOG_SCALE, log_scale.dtype))
  return Chain([BoundedAffine(scale_logit=s, shift=t),
                LogitMixtureLogisticCDF(logits, loc, log_scale)])


def _per_value(parameters, size):
  if parameters.shape[-1] % size:
    raise ValueError(f"the conditioner must give {size} parameters for each transformed value, got "
                     f"parameters of shape {parameters.shape}")
  return tf.reshape(parameters, tf.concat([tf.shape(parameters)[:-1],
                                           [parameters.shape[-1] // size, size]], axis=0))

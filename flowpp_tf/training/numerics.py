"""Which part of a model was the first to make a value that is not finite."""

import contextlib
import functools
from unittest import mock

import keras
import tensorflow as tf
import tensorflow_probability as tfp

_EVALUATIONS = ("forward", "inverse", "forward_log_det_jacobian", "inverse_log_det_jacobian")


def first_non_finite(model, images, noise, seed):
  """Says what made the bound of some images, or its gradient, not finite.

  The bound is evaluated once more, eagerly, and each Keras layer and each bijector is watched: of what
  is inside a part, the part inside is named first.

  Args:
    model: `FlowPlusPlus`.
    images: `[B, H, W, C]`.
    noise: the dequantizer's draws, as in `log_prob_bound`.
    seed: of the dropout masks.

  Returns:
    `str`, or None if all is finite.
  """
  watch = _Watch()
  with watch.parts(), tf.GradientTape() as tape:
    loss = -tf.reduce_mean(model.log_prob_bound(images, noise=noise, seed=seed, training=True))
  if watch.culprit:
    return f"{watch.culprit} made the first value that is not finite"
  if not _finite(loss):
    return "all parts are finite, their sum is not"
  gradients = zip(model.trainable_variables,
                  tape.gradient(loss, [v.value for v in model.trainable_variables]))
  bad = [v.path for v, g in gradients if g is not None and not _finite(g)]
  if bad:  # the gradient comes from the end of the evaluation
    return (f"the bound is finite, the gradients of {len(bad)} weights are not; the last of them in the "
            f"order of evaluation is {bad[-1]}")
  return None


def explain_skipped_step(model, batches, replicas, step):
  """What was not finite in a training step that was skipped, while the weights are those before it.

  Args:
    model: `FlowPlusPlus`, compiled.
    batches: callable, `step -> tf.data.Dataset` of the batches from that step on.
    replicas: number of devices that took it.
    step: its number.

  Returns:
    `str`.
  """
  batch = next(iter(batches(step)))
  parts = replicas * model.accumulate
  size = len(batch) // parts
  for part in range(parts):
    noise, seed = model.step_noise(size, model.step_seed(step), part, parts)
    found = first_non_finite(model, batch[size * part:size * (part + 1)], noise, seed)
    if found:
      return found
  return "all was finite when it was evaluated again"


class _Watch:
  """Looks for the first part that makes finite values into others."""

  def __init__(self):
    self.culprit = None  # the first part that did, and the bijector around it
    self._inside = []  # parts that are being evaluated

  @contextlib.contextmanager
  def parts(self):
    """Within it, each call of a layer and each evaluation of a bijector is watched."""
    with contextlib.ExitStack() as stack:
      for kind, cls, methods in (("layer", keras.layers.Layer, ("__call__",)),
                                 ("bijector", tfp.bijectors.Bijector, _EVALUATIONS)):
        for method in methods:
          stack.enter_context(mock.patch.object(
              cls, method, self._watched(getattr(cls, method), kind)))
      yield

  def _watched(self, method, kind):
    @functools.wraps(method)
    def watched(part, *args, **kwargs):
      around = next((name for name in reversed(self._inside) if name.startswith("bijector")), None)
      self._inside.append(f"{kind} {part.name}")
      result = method(part, *args, **kwargs)
      name = self._inside.pop()
      if self.culprit is None and not _finite(result) and _finite((args, kwargs)):
        self.culprit = f"{name} in {around}" if around else name
      return result
    return watched


def _finite(values):
  return all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in tf.nest.flatten(values)
             if tf.is_tensor(value) and value.dtype.is_floating)

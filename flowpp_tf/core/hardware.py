"""The hardware that TensorFlow sees."""

import tensorflow as tf


def has_accelerator() -> bool:
  """Return whether TensorFlow sees a GPU or a TPU."""
  return any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))

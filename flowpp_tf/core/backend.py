"""Checks, on import, that Keras runs on TensorFlow: on another backend couplings would have no weights."""

import keras

if keras.backend.backend() != "tensorflow":
  raise ImportError(
    f"flowpp_tf needs Keras on TensorFlow, got the backend {keras.backend.backend()!r}; set the "
    "environment variable KERAS_BACKEND=tensorflow before Keras is imported"
  )

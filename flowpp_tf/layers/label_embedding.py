"""Learned vectors of class labels, with one for images whose label is left out."""

import math
from typing import Any

from jaxtyping import Float, Int
import keras
import tensorflow as tf

from flowpp_tf.core.checks import check_arguments, check_count


@keras.saving.register_keras_serializable("flowpp_tf")
class LabelEmbedding(keras.layers.Layer):
  """`embedding(labels [N])`: a context `[N, 1, 1, channels]` for images.

  Args:
    num_classes: labels are in 0 .. num_classes - 1; -1 stands for an image whose label is left out.
    channels: channels of the context.

  Labels out of range give NaN.

  Examples:
    >>> fpp.layers.LabelEmbedding(10, 4)(tf.constant([3, -1])).shape
    TensorShape([2, 1, 1, 4])
  """

  @check_arguments
  def __init__(self, num_classes: int, channels: int, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    for name, value in (("num_classes", num_classes), ("channels", channels)):
      check_count(name, value)
    self.num_classes = num_classes
    self.channels = channels
    # The last row is that of images without a label.
    self.table = self.add_weight(
      name="table", shape=(num_classes + 1, channels), initializer=keras.initializers.RandomNormal(stddev=0.5)
    )
    self.built = True

  @check_arguments
  def call(self, labels: Int[tf.Tensor, " n"]) -> Float[tf.Tensor, "n 1 1 c"]:
    labels = tf.cast(labels, tf.int64)  # which holds all labels and the number of classes, unlike int8
    known = (labels >= -1) & (labels < self.num_classes)
    labels = tf.cast(tf.where(known, labels, -1), tf.int32)
    rows = tf.where(labels < 0, self.num_classes, labels)
    # A product with one-hot vectors has a dense gradient. It would make zeros of labels out of range.
    one_hot = tf.one_hot(rows, self.num_classes + 1, dtype=self.compute_dtype)
    vectors = tf.matmul(one_hot, tf.cast(self.table, self.compute_dtype))
    vectors = tf.where(known[:, tf.newaxis], vectors, tf.cast(math.nan, vectors.dtype))
    return vectors[:, tf.newaxis, tf.newaxis]

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "num_classes": self.num_classes, "channels": self.channels}

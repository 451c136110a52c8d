"""The mark of a layer or model whose weights are set: from data, or by loading trained ones."""

from collections.abc import Sequence
from typing import Any

from flowpp_tf.core.checks import check_type
from flowpp_tf.core.errors import InputError


class Adaptable:
  """Mixin of Keras layers and models with data-dependent initialisation, to stand before Keras' class.

  Attributes:
    initialized: whether the weights were set by `adapt`, `initialize`, `set_weights`, or by loading a file of any
      kind. It is no weight, and no file holds it. Set it to True after assigning variables one by one, or restoring
      them by `tf.train.Checkpoint`.
  """

  initialized = False

  def _check_new(self, overwrite):
    """Raise an `InputError` if `adapt` would replace weights without being asked to."""
    if self.initialized and not overwrite:
      raise InputError(
        "the weights would be replaced: the model is initialised already, by `adapt` or by loaded weights; give "
        "`overwrite=True` to replace them"
      )

  def load_own_variables(self, store: Any) -> None:
    """Read the weights from a file, as in Keras, which calls this for each layer that it loads."""
    super().load_own_variables(store)  # type: ignore[misc]
    self.initialized = True

  def set_weights(self, weights: Any) -> None:
    """Set the weights, as in Keras."""
    check_type("weights", weights, Sequence)
    super().set_weights(weights)  # type: ignore[misc]
    self.initialized = True

"""Types that many signatures share. Shapes stand in the docstrings."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:  # some parts of the package do without TensorFlow
  import tensorflow as tf

TensorLike: TypeAlias = Union["tf.Tensor", np.ndarray, Sequence[Any], float]
Seed: TypeAlias = Union[int, Sequence[int], "tf.Tensor", None]  # see `core.context.as_seed`
Shape: TypeAlias = Sequence[int]
Path: TypeAlias = Union[str, os.PathLike]

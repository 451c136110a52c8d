"""Types that many signatures share. Shapes stand in the docstrings."""

from collections.abc import Sequence
import os
from typing import Any, TypeAlias, Union

import numpy as np
import tensorflow as tf

TensorLike: TypeAlias = Union[tf.Tensor, np.ndarray, Sequence[Any], float]
Seed: TypeAlias = Union[int, Sequence[int], tf.Tensor, None]  # see `models.seeds.as_seed`
Shape: TypeAlias = Sequence[int]
Path: TypeAlias = Union[str, os.PathLike]

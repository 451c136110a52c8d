"""ELPV: 2,624 grey pictures of solar cells under electroluminescence, 300x300x1, 8 bits (the package elpv-dataset).

Buerhop-Lutz et al. 2018, Deitsch et al. 2019, 2021. The licence of the pictures is CC BY-NC-SA 4.0: nothing of them is
in this package. Test pictures are those whose index is 7 modulo 10 (262), validation those with 3 (263).

A model smaller than the pictures is trained on crops of them at random positions; as arrays, all three splits are then
the tiles of a grid, 32x32 for example, side by side from the top left corner.
"""

import functools
import math

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import SPLITS, ImageDataset
from flowpp_tf.data.random_crops import RandomCrops
from flowpp_tf.types import Shape

# The class of a picture: the kind of the cell, and how probable a defect is, in thirds.
CLASSES = tuple(f"{kind} {third}/3" for kind in ("mono", "poly") for third in range(4))
_REMAINDERS = {"train": (0, 1, 2, 4, 5, 6, 8, 9), "validation": (3,), "test": (7,)}
_VALIDATION_PIXELS = 2048 * 32 * 32  # as many as a validation needs; all would take longer than the steps between


def elpv(image_shape: Shape | None = None, crops: bool = False, labels: bool = False) -> ImageDataset:
  """Load ELPV, as whole pictures or as tiles.

  Args:
    image_shape: (300, 300, 1) or None for whole pictures; a smaller one for tiles.
    crops: whether to train on random crops of the pictures rather than on the tiles of a grid.
    labels: whether to load the class of each whole picture, one of `CLASSES`.

  Raises:
    InputError (a ValueError): if the package is not installed, or the shape does not fit the pictures.
  """
  pictures, defects, kinds = _package()
  whole = pictures.shape[1:]
  shape = whole if image_shape is None else tuple(image_shape)
  if shape[2] != 1 or shape[0] > whole[0] or shape[1] > whole[1]:
    raise InputError(f"data set 'elpv' has pictures of {whole}, which have no crops of {shape}")
  rows = {name: np.flatnonzero(np.isin(np.arange(len(pictures)) % 10, rest)) for name, rest in _REMAINDERS.items()}
  if shape == whole:
    classes = np.rint(3 * defects).astype(int) + 4 * (kinds == "poly")
    return ImageDataset(
      "elpv",
      levels=256,
      **{name: pictures[index] for name, index in rows.items()},
      labels={name: classes[index] for name, index in rows.items()} if labels else None,
      classes=CLASSES if labels else (),
    )
  if labels:
    raise InputError(f"data set 'elpv' has labels for whole pictures of {whole}, not for parts of {shape}")
  most = {"validation": max(_VALIDATION_PIXELS // math.prod(shape), 1)}
  cut = {name: _tiles(pictures[index], shape, most.get(name)) for name, index in rows.items()}
  train, validation, test = (cut[name] if crops else cut[name][:] for name in SPLITS)
  return ImageDataset("elpv", 256, train, validation, test)


def _tiles(pictures, shape, most):
  return RandomCrops(pictures.reshape(-1, 1), [pictures.shape[1:3]] * len(pictures), shape, most)


@functools.cache
def _package():
  """Return the pictures `[N, 300, 300, 1]`, their probabilities of a defect, and their kinds of cell."""
  pictures, defects, kinds = import_extra("elpv_dataset.utils", "the data set 'elpv'").load_dataset()
  return pictures[..., np.newaxis], defects, kinds

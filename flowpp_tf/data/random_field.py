"""Gaussian random fields 32x32x1 on a torus, with a spectrum that is flat up to 2 cycles per side, and then k^-3."""

from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.gaussian_fields import GaussianFields, power_spectrum

_TRAIN, _VALIDATION, _TEST = 2**20, 1024, 4096  # no run sees a field of train twice


def random_field(real_valued: bool = True) -> ImageDataset:
  """Return the fields of three fixed seeds; `gaussian_fields.field_log_prob` is their density.

  Args:
    real_valued: whether the model takes real-valued images; others do not fit.
  """
  del real_valued
  train, validation, test = (
    GaussianFields(count, power_spectrum(), seed) for seed, count in enumerate((_TRAIN, _VALIDATION, _TEST))
  )
  return ImageDataset("random_field", None, train, validation, test)

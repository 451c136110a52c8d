"""Gaussian random fields on a torus, whose density is known: their Fourier modes are independent.

    x = F^-1[ sqrt(P) F[w] ],  w white noise          log p(x) = -1/2 sum_k ( |F[x]_k|^2 / (N P_k) + log(2 pi P_k) )

F is the discrete Fourier transform of N values, and P_k the variance of mode k, an eigenvalue of the covariance.
"""

from typing import Any

import numpy as np

from flowpp_tf.core.checks import as_array, check_all_finite, check_arguments, check_count, check_number, check_shape
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.source import ImageSource
from flowpp_tf.types import TensorLike

_TRAIN, _VALIDATION, _TEST = 2**20, 1024, 4096  # fields of random_field; no run sees one of train twice


@check_arguments
def power_spectrum(
  size: int = 32, amplitude: TensorLike = 1.0, slope: TensorLike = 3.0, corner: float = 2.0
) -> np.ndarray:
  """Return P = amplitude (1 + |k|^2 / corner^2)^(-slope / 2), flat up to the corner and then a power law.

  Args:
    size: side of the field.
    amplitude: P of the mean; positive, of any shape.
    slope: of the power law, of any shape.
    corner: wave number in cycles per side.

  Returns:
    `[..., size, size]`, float64, in the order of `np.fft.fft2`.

  Examples:
    >>> from flowpp_tf.data.gaussian_fields import power_spectrum
    >>> power_spectrum(8, amplitude=2.0)[0, 0].item()
    2.0
  """
  check_count("size", size, high=2**14)
  check_number("corner", corner, 0.0, ends=False)
  amplitude = as_array("amplitude", amplitude).astype(np.float64)[..., np.newaxis, np.newaxis]
  slope = as_array("slope", slope).astype(np.float64)[..., np.newaxis, np.newaxis]
  if not np.all(amplitude > 0):
    raise InputError(f"`amplitude` must be positive, got {amplitude.min()}")
  k = np.fft.fftfreq(size, 1 / size)
  squares = (k[:, np.newaxis] ** 2 + k**2) / corner**2
  return amplitude * (1 + squares) ** (-slope / 2)


@check_arguments
def field_log_prob(fields: TensorLike, spectrum: np.ndarray) -> np.ndarray:
  """Return the log density of fields, `[...]` nats, float64.

  Args:
    fields: `[..., H, W, 1]`.
    spectrum: P `[..., H, W]`, positive and even, whose leading dimensions are broadcast against the fields'.

  Raises:
    InputError (a ValueError): for fields and a spectrum that do not fit, or values that are not finite.

  Examples:
    >>> from flowpp_tf.data.gaussian_fields import field_log_prob
    >>> round(float(field_log_prob(np.zeros([4, 4, 1]), np.ones([4, 4]))), 4)  # of white noise
    -14.703
  """
  spectrum = _checked_spectrum(spectrum)
  fields = as_array("fields", fields)
  check_shape("fields", fields.shape[-3:], [*spectrum.shape[-2:], 1], "H")
  x = fields[..., 0].astype(np.float64)
  check_all_finite("fields", x)
  power = np.abs(np.fft.fft2(x)) ** 2 / np.prod(x.shape[-2:])
  log_normalizer = np.log(2 * np.pi * spectrum)
  return -0.5 * np.sum(power / spectrum + log_normalizer, axis=(-2, -1))


@check_arguments
def expected_log_prob(spectrum: np.ndarray) -> tuple[float, float]:
  """Return mean and standard deviation of `field_log_prob` over fields: minus the entropy, and sqrt(N / 2), nats.

  Args:
    spectrum: P `[H, W]`, positive and even.

  Examples:
    >>> from flowpp_tf.data.gaussian_fields import expected_log_prob
    >>> expected_log_prob(np.ones([2, 2]))[1] == 2**0.5
    True
  """
  spectrum = _checked_spectrum(spectrum, [None, None])
  mean = -0.5 * np.sum(1 + np.log(2 * np.pi * spectrum))
  std = (spectrum.size / 2) ** 0.5
  return float(mean), std


@check_arguments
def fields_of_noise(noise: TensorLike, spectrum: np.ndarray) -> np.ndarray:
  """Return the fields `[..., H, W, 1]`, float32, that white noise `[..., H, W]` becomes under a spectrum.

  Examples:
    >>> from flowpp_tf.data.gaussian_fields import fields_of_noise, power_spectrum
    >>> fields_of_noise(np.random.normal(size=[3, 8, 8]), power_spectrum(8)).shape
    (3, 8, 8, 1)
  """
  spectrum = _checked_spectrum(spectrum)
  noise = as_array("noise", noise)
  check_shape("noise", noise.shape[-2:], spectrum.shape[-2:], "H")
  return _fields(noise, spectrum)


def _fields(noise, spectrum):
  modes = np.fft.fft2(noise) * np.sqrt(spectrum)
  return np.fft.ifft2(modes).real[..., np.newaxis].astype(np.float32)


class GaussianFields(ImageSource):
  """Fields `[N, H, W, 1]`, float32, made when they are read: field n follows from the seed and n.

  Args:
    count: N.
    spectrum: P `[H, W]`, positive and even.
    seed: of all fields.

  Examples:
    >>> from flowpp_tf.data.gaussian_fields import GaussianFields, power_spectrum
    >>> GaussianFields(1000, power_spectrum(8), seed=0)[[3, 999]].shape
    (2, 8, 8, 1)
  """

  dtype = np.dtype(np.float32)

  @check_arguments
  def __init__(self, count: int, spectrum: np.ndarray, seed: int = 0) -> None:
    check_count("count", count, high=2**40)
    check_count("seed", seed, 0, 2**32 - 1)
    self.spectrum = _checked_spectrum(spectrum, [None, None])
    self._seed = seed
    self.shape = (count, *self.spectrum.shape, 1)

  def __getitem__(self, index: Any) -> np.ndarray:
    numbers = range(len(self))  # an array of them may be more than memory holds
    if isinstance(index, slice):
      index = numbers[index]
    chosen = np.asarray(index)
    noise = np.empty([chosen.size, *self.spectrum.shape])
    for row, n in zip(noise, chosen.ravel()):
      # Philox counts its draws in the lowest word: another highest word is another stream.
      stream = np.random.Philox(key=self._seed, counter=[0, 0, 0, numbers[n]])
      row[...] = np.random.Generator(stream).normal(size=row.shape)
    return _fields(noise, self.spectrum).reshape(*chosen.shape, *self.shape[1:])


def _checked_spectrum(spectrum, shape=None):
  """Return the spectrum of real fields; raise an `InputError` for an array that is none."""
  spectrum = as_array("spectrum", spectrum, shape).astype(np.float64)
  if spectrum.ndim < 2:
    raise InputError(f"`spectrum` must be of shape [..., H, W], got {spectrum.shape}")
  check_all_finite("spectrum", spectrum)
  if not np.all(spectrum > 0):
    raise InputError(f"`spectrum` must be positive, got {spectrum.min()}")
  opposite = np.roll(spectrum[..., ::-1, ::-1], 1, axis=(-2, -1))  # P of -k
  if not np.allclose(spectrum, opposite, rtol=1e-6, atol=0):
    raise InputError("`spectrum` must be even, the same for k and -k, or its fields would not be real")
  return spectrum


def random_field(real_valued: bool = True) -> ImageDataset:
  """Return fields 32x32x1 of three fixed seeds, flat up to 2 cycles per side and then k^-3; see `field_log_prob`.

  Args:
    real_valued: whether the model takes real-valued images; others do not fit.
  """
  del real_valued
  train, validation, test = (
    GaussianFields(count, power_spectrum(), seed) for seed, count in enumerate((_TRAIN, _VALIDATION, _TEST))
  )
  return ImageDataset("random_field", None, train, validation, test)

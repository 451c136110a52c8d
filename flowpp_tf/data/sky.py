"""Simulated 16-bit frames of the night sky, whose entropy is known: the data set sky16.

A scene is the mean number of electrons in each pixel, rendered by GalSim: a sky with a gradient, stars, and galaxies
under one point spread function (Moffat). Each frame has its own sky, seeing and objects. A frame is

    x = BIAS + Poisson(scene) + round(N(0, READ_NOISE^2))

at one electron per level. Given the scene, a pixel is the sum of a Poisson number and a rounded normal number. The
entropy of this sum is a sum of finitely many terms (benchmarks/sky16.py). A model that does not know the scene needs at
least as many bits.
"""

import math

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache
from flowpp_tf.data.dataset import ImageDataset
from flowpp_tf.data.random_crops import crops_of
from flowpp_tf.types import Path, Shape

SIDE = 256  # pixels
LEVELS = 1 << 16
BIAS = 1000  # levels
READ_NOISE = 6.0  # electrons
FRAMES = {"train": 96, "validation": 4, "test": 16}
_SKY = 150.0, 1500.0  # electrons per pixel, log-uniform by frame
_STARS = 50  # mean number
_GALAXIES = 15  # mean number
_STAR_FLUX = (300.0, 5e5)  # electrons, log-uniform
_GALAXY_FLUX = (1e3, 1e5)  # electrons, log-uniform
MOST_ELECTRONS = 60_000.0  # of a pixel's mean; brighter frames would saturate
_VERSION = 1


def sky16(image_shape: Shape | None = None, crops: bool = False, cache_dir: Path | None = None) -> ImageDataset:
  """Simulate the frames, or read them from the cache, and cut them into images of a shape.

  Args:
    image_shape: `(H, W, 1)` of the images; None for whole frames.
    crops: whether the training split is the `RandomCrops` of its frames, rather than a grid of them.
    cache_dir: see cache.py.

  Raises:
    InputError (a ValueError): if galsim is not installed, or for another number of channels.
  """
  height, width, channels = image_shape or (SIDE, SIDE, 1)
  if channels != 1 or max(height, width) > SIDE:
    raise InputError(f"`image_shape` must be one of at most ({SIDE}, {SIDE}, 1) for sky16, got {image_shape}")
  splits = {split: crops_of(whole, (height, width, 1)) for split, whole in frames(cache_dir).items()}
  train = splits["train"] if crops else splits["train"][:]
  version = f"galsim {import_extra('galsim', 'sky', _WHAT).__version__}"
  return ImageDataset("sky16", LEVELS, train, splits["validation"][:], splits["test"][:], version=version)


_WHAT = "the data set 'sky16'"


def frames(cache_dir: Path | None = None) -> dict[str, np.ndarray]:
  """Return the frames of each split, uint16 `[N, SIDE, SIDE, 1]`."""
  version = import_extra("galsim", "sky", _WHAT).__version__
  parts = ((split, frame(split, i)[np.newaxis, ..., np.newaxis]) for split, n in FRAMES.items() for i in range(n))
  return cache.decoded_images(
    "sky16", [_VERSION, version], FRAMES, (SIDE, SIDE, 1), parts, cache_dir=cache_dir, dtype=np.uint16
  )[0]


def frame(split: str, index: int) -> np.ndarray:
  """Return a frame, uint16 `[SIDE, SIDE]`."""
  rng = _generator(split, index, 1)
  scene_ = scene(split, index)
  electrons = rng.poisson(scene_)
  read_noise = np.rint(rng.normal(0.0, READ_NOISE, scene_.shape)).astype(np.int64)
  x = BIAS + electrons + read_noise
  return np.clip(x, 0, LEVELS - 1).astype(np.uint16)


def scene(split: str, index: int) -> np.ndarray:
  """Return the mean number of electrons in each pixel of a frame, float64 `[SIDE, SIDE]`."""
  galsim = import_extra("galsim", "sky", _WHAT)
  rng = _generator(split, index, 0)
  log_uniform = lambda low, high: math.exp(rng.uniform(math.log(low), math.log(high)))
  psf = galsim.Moffat(beta=3.0, fwhm=rng.uniform(2.5, 4.0))
  image = galsim.ImageD(SIDE, SIDE)
  position = lambda: galsim.PositionD(*rng.uniform(0.5, SIDE + 0.5, 2))
  for _ in range(rng.poisson(_STARS)):
    place = position()
    star = psf.withFlux(log_uniform(*_STAR_FLUX))
    star.drawImage(image, scale=1.0, center=place, add_to_image=True, method="no_pixel")
  for _ in range(rng.poisson(_GALAXIES)):
    place = position()
    disc = galsim.Exponential(half_light_radius=rng.uniform(1.5, 6.0), flux=log_uniform(*_GALAXY_FLUX))
    shear = rng.uniform(0, 0.5)
    angle = rng.uniform(0, math.pi) * galsim.radians
    disc = disc.shear(g=shear, beta=angle)
    galaxy = galsim.Convolve(disc, psf)
    galaxy.drawImage(image, scale=1.0, center=place, add_to_image=True, method="auto")
  y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
  slope = rng.uniform(-0.1, 0.1, 2)
  sky = log_uniform(*_SKY) * (1 + slope[0] * x + slope[1] * y)
  return np.clip(np.maximum(image.array, 0) + sky, 0, MOST_ELECTRONS)


def _generator(split, index, stream):
  return np.random.Generator(np.random.PCG64([16, list(FRAMES).index(split), index, stream]))

"""Pictures of images that the presets draw, each from one seed."""

import functools

import numpy as np
import style

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import BatchedModel, image_grid, interpolate, nearest_neighbours, to_shades

SEED = 0
TEMPERATURES = (0.5, 0.7, 0.9, 1.0)


@functools.cache
def batched(preset, guidance=0.0):
  """A preset, as `BatchedModel`."""
  return BatchedModel(fpp.FlowPlusPlus.from_preset(preset), guidance=guidance)


@functools.cache
def latents(preset, n, temperature):
  """Latents of `n` images; other temperatures give the same ones times a factor."""
  return batched(preset).model.sample_latents(n, temperature, SEED)


@functools.cache
def drawn_by_readme():
  """What the first code of the README writes: its picture, which tests/docs/test_pages.py compares."""
  images = batched("fashion_mnist").model.sample(32, temperature=0.9, seed=SEED)
  return image_grid(images, levels=256, columns=16)


def samples_first(theme):
  """What the first code of the README draws, to the pixel; in the dark version the gaps are transparent."""
  picture = drawn_by_readme()
  if theme.ground:
    return picture
  blank = image_grid(np.zeros([32, 28, 28, 1], np.uint8), levels=256, columns=16)
  assert blank.size == picture.size
  picture = picture.convert("LA")
  picture.putalpha(blank.point(lambda value: 255 - value))
  return picture


@functools.cache
def _samples(preset, rows, columns, temperature):
  images = batched(preset).decode(latents(preset, rows * columns, temperature))
  return _in_rows(images, preset, rows)


def _in_rows(images, preset, rows):
  shades = to_shades(images, batched(preset).model.config.levels)
  return shades.reshape(rows, -1, *shades.shape[1:])


def samples_digits(theme):
  """Samples of the preset digits, temperature 1."""
  return style.grid(_samples("digits", 4, 12, 1.0), theme, 10, 6)


def samples_fashion_mnist(theme):
  """Samples of the preset fashion_mnist, temperature 0.9."""
  return style.grid(_samples("fashion_mnist", 4, 10, 0.9), theme, 4, 6)


@functools.cache
def _samples_by_class(preset, rows, temperature, guidance=0.0):
  z = np.repeat(latents(preset, rows, temperature), 10, axis=0)
  images = batched(preset, guidance).decode(z, np.tile(np.arange(10), rows))
  return _in_rows(images, preset, rows)


def samples_digits_by_class(theme):
  """Samples of the preset digits_by_class, temperature 1, a column for each class; a row shares its latents."""
  return style.grid(_samples_by_class("digits_by_class", 4, 1.0), theme, 12, 6)


def samples_photos(theme):
  """Samples of the preset photos, temperature 1."""
  return style.grid(_samples("photos", 3, 8, 1.0), theme, 4, 6)


@functools.cache
def _temperatures():
  images = np.concatenate([_samples("fashion_mnist", 1, 9, temperature)[0] for temperature in TEMPERATURES])
  return images.reshape(len(TEMPERATURES), -1, *images.shape[1:])


def temperatures(theme):
  """The same latents at several temperatures, one row each."""
  labels = [str(temperature) for temperature in TEMPERATURES]
  return style.grid(_temperatures(), theme, 4, 6, row_labels=labels)


@functools.cache
def _interpolation():
  ends = batched("fashion_mnist").decode(latents("fashion_mnist", 7, 0.8))
  ways = (0, 4), (4, 6), (6, 0)  # the samples that are a pullover, a shoe and a dress
  rows = [interpolate(batched("fashion_mnist"), ends[first], ends[last], 9, SEED) for first, last in ways]
  return _in_rows(np.concatenate(rows), "fashion_mnist", 3)


def interpolation(theme):
  """Ways through latent space between samples."""
  return style.grid(_interpolation(), theme, 4, 6, columns_wide=(1, 8))


GUIDANCES = (0.0, 1.0, 3.0)


@functools.cache
def _classes(n=2):
  return np.concatenate([_samples_by_class("digits_by_class", n, 0.8, guidance) for guidance in GUIDANCES])


def classes(theme):
  """Samples of each class, two for each guidance; a row shares its latents."""
  images = _classes()
  labels = [f"guidance {GUIDANCES[i // 2]:.0f}" if i % 2 == 0 else "" for i in range(len(images))]
  columns = [(label, f"  {label}") for label in range(10)]
  return style.grid(images, theme, 12, 6, rows_wide=(2, 4), row_labels=labels, column_labels=columns)


@functools.cache
def _neighbours():
  data = load_dataset("digits")
  images = batched("digits").decode(latents("digits", 10, 1.0))
  indices, _ = nearest_neighbours(images, data.train, 3)
  return _in_rows(np.concatenate([images, *(data.train[column] for column in indices.T)]), "digits", 4)


def neighbours(theme):
  """Samples above the training images closest to them."""
  labels = ["sample", "closest", "second", "third"]
  return style.grid(_neighbours(), theme, 12, 6, rows_wide=(1,), row_labels=labels)

"""Draw grids and animations of images, curves of bits/dim, and heat maps."""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flowpp_tf.core.checks import as_array, check_all_finite, check_arguments, check_count, check_pixels, pixel_dtype
from flowpp_tf.core.environment import import_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import ANIMATIONS
from flowpp_tf.data.source import as_images
from flowpp_tf.types import Path

# Approximate sizes in pixels. Small images are enlarged without smoothing: grids to the area of a square, strips up to
# a length.
_SQUARE_SIDE = 512
_STRIP_LENGTH = 1024
_SMALLEST_TILE = 32
_FONT_SIZE = 14
_FRAME_MILLISECONDS = 100
# From black over red to pale yellow: lightness rises, so that the map can be read without colours too.
_LOWEST, _MIDDLE, _HIGHEST = "#000004", "#b73779", "#fcfdbf"
_MOST_PIXELS = 10_000  # per side: a larger picture is a mistake


@check_arguments
def image_grid(
  images: np.ndarray,
  levels: int | None,
  columns: int | None = None,
  gap: int = 1,
  wide_columns: Sequence[int] = (),
  title: str = "",
  row_labels: Sequence[str] = (),
) -> Image.Image:
  """Return a picture with all images in a grid.

  Args:
    images: integers in 0 .. levels - 1, `[N, H, W, 1 or 3]`.
    levels: number of pixel values, which are scaled to the range from black to white. None for real-valued images,
      whose smallest value becomes black and whose largest value becomes white.
    columns: images per row; None for a square.
    gap: distance between images, in pixels of the images.
    wide_columns: indices of columns with a gap four times as wide to their left.
    title: text above the grid.
    row_labels: text left of each row.

  Raises:
    InputError (a ValueError): if the images do not fit `levels`, or an argument is invalid.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import image_grid
    >>> images = load_dataset("digits").test[:4]
    >>> image_grid(images, levels=17, columns=4).save("digits.png")
  """
  images = as_array("images", images, [None] * 4)
  pixels = to_shades(images, levels)
  count, height, width, channels = images.shape
  if channels not in (1, 3):
    raise InputError(f"`images` must have 1 or 3 channels, got shape {images.shape}")
  if columns is None:
    columns = math.ceil(math.sqrt(count))
  check_count("columns", columns, high=_MOST_PIXELS)
  check_count("gap", gap, 0, _MOST_PIXELS)
  tops = np.arange(-(-count // columns)) * (height + gap)
  wide_gaps = np.searchsorted(np.sort(wide_columns), np.arange(columns), side="right")  # up to each column
  lefts = np.arange(columns) * (width + gap) + 3 * gap * wide_gaps
  bottom = tops[-1] + height
  right = lefts[-1] + width
  grid = np.full((bottom, right, channels), 255, np.uint8)
  for i, image in enumerate(pixels):
    row, column = divmod(i, columns)
    grid[tops[row] : tops[row] + height, lefts[column] : lefts[column] + width] = image
  picture = Image.fromarray(grid[..., 0] if channels == 1 else grid)
  scale_of_area = _SQUARE_SIDE / np.sqrt(np.prod(picture.size))
  scale_of_length = _STRIP_LENGTH / max(picture.size)
  scale = max(1, int(min(scale_of_area, scale_of_length)))
  scale = max(scale, math.ceil(_SMALLEST_TILE / min(height, width)))
  picture = picture.resize([side * scale for side in picture.size], Image.Resampling.NEAREST)
  if title or row_labels:
    middles = [(top + height / 2) * scale for top in tops]
    picture = _with_text(picture, title, list(zip(middles, row_labels)))
  return picture


def _with_text(picture, title, labels):
  """Add a line of text above a picture and labels to its left; `labels` are pairs of a height and a text."""
  font = ImageFont.load_default(_FONT_SIZE)
  widths = [math.ceil(font.getlength(text)) + _FONT_SIZE for _, text in labels]
  left = max(widths, default=0)
  top = 2 * _FONT_SIZE if title else 0
  width = max(picture.width, math.ceil(font.getlength(title)) + 4)
  result = Image.new(picture.mode, (left + width, top + picture.height), "white")
  result.paste(picture, (left, top))
  draw = ImageDraw.Draw(result)
  draw.text((left + 2, _FONT_SIZE), title, "black", font, anchor="lm")
  for middle, text in labels:
    draw.text((left - _FONT_SIZE // 2, top + middle), text, "black", font, anchor="rm")
  return result


@check_arguments
def to_shades(images: np.ndarray, levels: int | None) -> np.ndarray:
  """Scale integers in 0 .. levels - 1 to uint8 from black to white; `read_for_model` is the inverse.

  Without levels, scale real numbers: the smallest is black and the largest white, and equal numbers are all black.

  Raises:
    InputError (a ValueError): for other values.

  Examples:
    >>> from flowpp_tf.evaluation import to_shades
    >>> to_shades(np.array([0, 8, 16]), levels=17).tolist()
    [0, 128, 255]
  """
  images = as_array("images", images)
  if levels is not None:
    pixel_dtype(levels)  # an error for an invalid number
  check_pixels(images, levels)
  if levels is None:
    values = images.astype(np.float64) / 2  # halved, so that the range of large numbers does not overflow
    values -= values.min()
    shades = values / (values.max() or 1.0) * 255
  else:
    shades = images.astype(np.float64) * (255 / (levels - 1))
  return np.round(shades).astype(np.uint8)


@check_arguments
def write_animation(images: np.ndarray, levels: int, path: Path) -> None:
  """Write images as an endless animation that plays forwards and backwards, enlarged as in a grid.

  Args:
    images: integers in 0 .. levels - 1, `[F, H, W, 1 or 3]`; the first and the last frame are shown longer.
    levels: number of pixel values.
    path: .gif, with at most 256 colours per frame, or .apng or .png, which keep all colours.

  Raises:
    InputError (a ValueError): if the path has another ending.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import write_animation
    >>> images = load_dataset("digits").test[:4]
    >>> write_animation(images, 17, "digits.gif")
  """
  ending = pathlib.Path(path).suffix.lower()
  if ending not in ANIMATIONS:
    raise InputError(f"`path` of an animation must end in {', '.join(ANIMATIONS)}, got {str(path)!r}")
  images = np.asarray(as_images("images", images))
  frames = [image_grid(image[np.newaxis], levels) for image in images]
  durations = [_FRAME_MILLISECONDS] * len(frames)
  durations[0] = durations[-1] = 5 * _FRAME_MILLISECONDS
  durations += durations[-2:0:-1]
  first, *others = frames + frames[-2:0:-1]
  first.save(path, format=ANIMATIONS[ending], save_all=True, append_images=others, duration=durations, loop=0)


@check_arguments
def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
  """Plot the training and validation bits/dim in a run's rows of metrics over the steps, as a PNG.

  Examples:
    >>> from flowpp_tf.evaluation import plot_curves
    >>> rows = [{"step": step, "bits_per_dim": 9 / step, "val_bits_per_dim": 9.5 / step} for step in (1, 2, 3)]
    >>> plot_curves(rows, "curves.png")
  """
  import_extra("matplotlib", "plots", "a plot of curves").use("agg")  # imported here, because it is slow
  plt = import_extra("matplotlib.pyplot", "plots", "a plot of curves")

  figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
  labels = {"bits_per_dim": "training (current weights, dropout)", "val_bits_per_dim": "validation (EMA weights)"}
  for name, label in labels.items():
    points = [(row["step"], row[name]) for row in rows if name in row]
    axes.plot(*zip(*points), label=label)
  values = [value for row in rows for name, value in row.items() if name in labels and np.isfinite(value)]
  if values:  # limit the axis, so that the first rows do not flatten the rest
    axes.set_ylim(min(values) - 0.05, np.quantile(values, 0.9) + 0.2)
  finite = [row for row in rows if np.isfinite(row.get("val_bits_per_dim", np.nan))]
  if finite:
    best = min(finite, key=lambda row: row["val_bits_per_dim"])
    axes.plot(best["step"], best["val_bits_per_dim"], "o", color="black", label="best")
    axes.set_title(f"best validation: {best['val_bits_per_dim']:.4f} bits/dim at step {best['step']:,}")
  axes.set(xlabel="step", ylabel="bits/dim")
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=120, format="png")
  plt.close(figure)


@check_arguments
def heat_map(values: np.ndarray, low: float | None = None, high: float | None = None) -> Image.Image:
  """Return real numbers `[H, W]` as colours from black to pale yellow.

  Args:
    values: `[H, W]`.
    low: values up to `low` are black; None for the smallest value.
    high: values from `high` on are pale yellow; None for the largest value, at least `low`.

  Raises:
    InputError (a ValueError): if a value is not finite, or `high` is not above `low`.

  Examples:
    >>> from flowpp_tf.evaluation import heat_map
    >>> heat_map(np.arange(6.0).reshape(2, 3), low=0).size
    (3, 2)
  """
  values = as_array("values", values, [None, None]).astype(np.float64)
  check_all_finite("values", values)
  if not values.size:
    raise InputError(f"`values` must have a value, got shape {values.shape}")
  if low is None:
    low = float(values.min())
  if high is None:
    high = max(float(values.max()), low)
  elif not low < high:
    raise InputError(f"`high` must be above `low`, got {high} and {low}")
  # Subtract halves: the difference of two large float64 can overflow.
  half_range = high / 2 - low / 2
  fractions = (values / 2 - low / 2) / (half_range or 1.0)
  shades = np.round(255 * np.clip(fractions, 0, 1)).astype(np.uint8)
  return ImageOps.colorize(Image.fromarray(shades), _LOWEST, _HIGHEST, _MIDDLE)

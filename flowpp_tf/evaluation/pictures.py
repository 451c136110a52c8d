"""Pictures of a run: a grid of images, an animation of them, the curves of bits/dim."""

import json
import pathlib

import numpy as np
from PIL import Image

from flowpp_tf.errors import InputError

ANIMATIONS = {".gif": "GIF", ".apng": "PNG", ".png": "PNG"}  # format by a file's ending
# Pixels, about: small images are enlarged without smoothing, to the area of a square, and strips up to a
# length.
_SQUARE_SIDE, _STRIP_LENGTH = 512, 1024


def image_grid(images, levels, columns=None, gap=1, wide_rows=(), wide_columns=()):
  """One picture of many images.

  Args:
    images: integers in 0 .. levels - 1, `[N, H, W, 1 or 3]`.
    levels: number of pixel values; they are spread over black to white.
    columns: images in a row; None for a square.
    gap: pixels of the images between two of them.
    wide_rows: numbers of the rows, from 0, before which the gap is four times as wide.
    wide_columns: the same of columns.

  Returns:
    `PIL.Image`.
  """
  count, height, width, channels = images.shape
  columns = columns or int(np.ceil(np.sqrt(count)))
  tops = _starts(-(-count // columns), height, gap, wide_rows)
  lefts = _starts(columns, width, gap, wide_columns)
  pixels = to_shades(images, levels)
  grid = np.full((tops[-1] + height, lefts[-1] + width, channels), 255, np.uint8)
  for i, image in enumerate(pixels):
    top, left = tops[i // columns], lefts[i % columns]
    grid[top:top + height, left:left + width] = image
  picture = Image.fromarray(grid[..., 0] if channels == 1 else grid)
  scale = max(1, int(min(_SQUARE_SIDE / np.sqrt(np.prod(picture.size)),
                         _STRIP_LENGTH / max(picture.size))))
  return picture.resize([side * scale for side in picture.size], Image.Resampling.NEAREST)


def to_shades(images, levels):
  """Integers in 0 .. levels - 1 as uint8 from black to white; `read_for_model` undoes it."""
  return np.round(np.asarray(images, np.float64) * (255 / (levels - 1))).astype(np.uint8)


def _starts(count, size, gap, wide):
  """Where each of `count` rows or columns begins."""
  numbers = np.arange(count)
  return numbers * (size + gap) + 3 * gap * np.searchsorted(np.sort(wide), numbers, side="right")


def write_animation(images, levels, path, seconds=0.1):
  """Writes images as an endless film that plays there and back, enlarged as in a grid.

  Args:
    images: integers in 0 .. levels - 1, `[F, H, W, 1 or 3]`; the first and the last stay longer.
    levels: number of pixel values.
    path: .gif, of at most 256 colours a frame, or .apng or .png, which keep all.
    seconds: that each image is shown.

  Raises:
    InputError (a ValueError): for another ending.
  """
  ending = pathlib.Path(path).suffix.lower()
  if ending not in ANIMATIONS:
    raise InputError(f"an animation must end in {', '.join(ANIMATIONS)}, got {str(path)!r}")
  frames = [image_grid(image[np.newaxis], levels) for image in images]
  durations = [1000 * seconds] * len(frames)
  durations[0] = durations[-1] = 5000 * seconds
  frames, durations = (there + there[-2:0:-1] for there in (frames, durations))
  frames[0].save(path, format=ANIMATIONS[ending], save_all=True, append_images=frames[1:],
                 duration=durations, loop=0)


def plot_curves(metrics_path, path):
  """Draws the bits/dim of training and validation over the steps.

  Args:
    metrics_path: of a metrics.jsonl.
    path: of the PNG.
  """
  import matplotlib  # here, since it takes long to import
  matplotlib.use("agg")
  from matplotlib import pyplot as plt

  with open(metrics_path) as file:
    rows = [json.loads(line) for line in file]
  figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
  for name, label in (("bits_per_dim", "training (present weights, dropout)"),
                      ("val_bits_per_dim", "validation (averaged weights)")):
    points = [(row["step"], row[name]) for row in rows if name in row]
    axes.plot(*zip(*points), label=label)
  values = [row[name] for row in rows for name in ("bits_per_dim", "val_bits_per_dim")
            if np.isfinite(row.get(name, np.nan))]
  if values:  # the first rows are far above the others
    axes.set_ylim(min(values) - 0.05, np.quantile(values, 0.9) + 0.2)
  axes.set(xlabel="step", ylabel="bits/dim")
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=120, format="png")
  plt.close(figure)

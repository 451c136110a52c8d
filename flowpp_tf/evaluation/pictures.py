"""Pictures of a run: a grid of images, the curves of bits/dim."""

import json

import numpy as np
from PIL import Image

_GRID_SIDE = 512  # pixels, about: small images are enlarged without smoothing


def image_grid(images, levels, columns=None, gap=1):
  """One picture of many images.

  Args:
    images: integers in 0 .. levels - 1, `[N, H, W, 1 or 3]`.
    levels: number of pixel values; they are spread over black to white.
    columns: images in a row; None for a square.
    gap: pixels of the images between two of them.

  Returns:
    `PIL.Image`.
  """
  count, height, width, channels = images.shape
  columns = columns or int(np.ceil(np.sqrt(count)))
  rows = -(-count // columns)
  pixels = np.round(np.asarray(images, np.float64) * (255 / (levels - 1))).astype(np.uint8)
  grid = np.full((rows, height + gap, columns, width + gap, channels), 255, np.uint8)
  for i, image in enumerate(pixels):
    grid[i // columns, :height, i % columns, :width] = image
  grid = grid.reshape(rows * (height + gap), columns * (width + gap), channels)
  grid = grid[:grid.shape[0] - gap, :grid.shape[1] - gap]
  picture = Image.fromarray(grid[..., 0] if channels == 1 else grid)
  scale = max(1, _GRID_SIDE // max(picture.size))
  return picture.resize([side * scale for side in picture.size], Image.Resampling.NEAREST)


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

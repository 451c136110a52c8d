"""Draw the page's charts and small pictures as HTML of a few kilobytes; the browser enlarges the pictures."""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import to_shades

_MOST_BINS = 12


def curve(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[tuple[int, float, str]]]:
  """Return a line on the best validation of a run, and the points of its curves: step, bits/dim, and name of the curve.

  A run that was never validated has no points.
  """
  names = {"val_bits_per_dim": "validation", "bits_per_dim": "training"}
  points = []
  for name, title in names.items():
    points += [(row["step"], row[name], title) for row in rows if _is_finite(row.get(name))]
  validated = [(value, step) for step, value, title in points if title == "validation"]
  if not validated:
    return "No curve is recorded.", []
  best, step = min(validated)
  about = f"Validation {best:.4f} bits/dim at step {step:,}, the single-sample bound. "
  return f"{about}Training is with dropout and the current weights.", points


def histogram(values: np.ndarray, value: float, what: str) -> str:
  """Return the histogram of bits/dim `[N]` with one more value, and a line on its rank; `what` the N images are.

  Raises:
    InputError (a ValueError): if a value is not finite.
  """
  if not (np.all(np.isfinite(values)) and math.isfinite(value)):
    raise InputError("the bound of an image is not finite")
  num_bins = min(_MOST_BINS, max(4, len(values) // 3))
  edges = np.histogram_bin_edges([*values, value], num_bins)
  counts, _ = np.histogram(values, edges)
  (own,) = np.flatnonzero(np.histogram([value], edges)[0])
  texts = [f"{count}{', and this' if i == own else ''}" for i, count in enumerate(counts)]
  bins = [f"{low:.3f} to {high:.3f}" for low, high in zip(edges, edges[1:])]
  fewer = int(np.sum(values < value))
  place = f" bits/dim: more than {fewer} of {len(values)} {what}, no more than the other {len(values) - fewer}"
  return f"{_bars(zip(bins, counts / counts.max(), texts))}<p><b>{value:.3f}</b>{html.escape(place)}.</p>"


def bars(names: Sequence[str], shares: np.ndarray) -> str:
  """Return bars of the ten largest shares."""
  ranked = sorted(zip(map(str, names), map(float, shares)), key=lambda pair: -pair[1])
  return _bars((name, share, _percent(share)) for name, share in ranked[:10])


def size_bars(sizes: Mapping[str, float]) -> str:
  """Return a bar for each size in bytes."""
  most = max(sizes.values())
  return _bars((name, size / most, f"{size:,.0f} bytes") for name, size in sizes.items())


def _bars(rows):
  """Return a bar for each name, share and text."""
  lines = [
    f"<div class='bar'><span>{html.escape(name)}</span>"
    f"<span class='track'><span style='width:{100 * share:.1f}%'></span></span>"
    f"<span>{text}</span></div>"
    for name, share, text in rows
  ]
  return f"<div class='bars'>{''.join(lines)}</div>"


def _percent(share):
  return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def _is_finite(value):
  return isinstance(value, (int, float)) and math.isfinite(value)


# --- Small pictures -------------------------------------------------------------------------------


def figure(picture: Image.Image, caption: str) -> str:
  """Return a picture with a caption, which is its alternative text too."""
  caption = html.escape(caption)
  return f"<figure><img src='{data_uri(picture)}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def row(figures: list[str]) -> str:
  """Return figures in a row that wraps on a narrow page."""
  return f"<div class='figures'>{''.join(figures)}</div>"


def thumbnail(image: np.ndarray, levels: int) -> Image.Image:
  """Return an image `[H, W, C]` of a model as a picture of its size."""
  pixels = to_shades(image, levels)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def film(images: np.ndarray, levels: int) -> str:
  """Return an element that shows one of the frames `[F, H, W, C]`, chosen by CSS's variable `--frame`."""
  strip = np.concatenate([*images], axis=0)
  _, height, width, _ = images.shape
  return (
    f"<div class='film' data-frames='{len(images)}' style='--frames:{len(images)};--frame:0;"
    f"aspect-ratio:{width}/{height}'>"
    f"<img src='{data_uri(thumbnail(strip, levels))}' alt='Frames between two images'></div>"
  )


def data_uri(picture: Image.Image) -> str:
  """Return a picture as a data URI of a PNG."""
  file = io.BytesIO()
  picture.save(file, "PNG")
  return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Charts and small pictures of the page as HTML, which the browser enlarges: an answer takes a few kilobytes."""

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
  points = [
    (row["step"], row[name], title) for name, title in names.items() for row in rows if _is_finite(row.get(name))
  ]
  validated = [(value, step) for step, value, title in points if title == "validation"]
  if not validated:
    return "No curve is recorded.", []
  best, step = min(validated)
  about = f"Validation {best:.4f} bits/dim at step {step:,}, the single-sample bound. "
  return f"{about}Training is with dropout and the current weights.", points


def histogram(values: np.ndarray, value: float, of: str) -> str:
  """Return the histogram of bits/dim `[N]` with one value among them, and which place this has.

  Raises:
    InputError (a ValueError): if a value is not finite.
  """
  if not (np.all(np.isfinite(values)) and math.isfinite(value)):
    raise InputError("the bound of an image is not finite")
  edges = np.histogram_bin_edges([*values, value], bins=min(_MOST_BINS, max(4, len(values) // 3)))
  counts, _ = np.histogram(values, edges)
  (own,) = np.flatnonzero(np.histogram([value], edges)[0])
  texts = [f"{count}{', and this' if i == own else ''}" for i, count in enumerate(counts)]
  bins = [f"{low:.3f} to {high:.3f}" for low, high in zip(edges, edges[1:])]
  fewer = int(np.sum(values < value))
  place = f" bits/dim: more than {fewer} of {len(values)} {of}, no more than the other {len(values) - fewer}"
  return f"{_bars(zip(bins, counts / counts.max(), texts))}<p><b>{value:.3f}</b>{html.escape(place)}.</p>"


def bars(names: Sequence[str], shares: np.ndarray) -> str:
  """Return a bar for each of the largest shares, of at most ten names."""
  chosen = sorted(range(len(names)), key=lambda i: -shares[i])[:10]
  return _bars((str(names[i]), float(shares[i]), _percent(float(shares[i]))) for i in chosen)


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
  """Return a picture with a caption under it, which is its text for those who do not see it too."""
  caption = html.escape(caption)
  return f"<figure><img src='{data_uri(picture)}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def row(figures: list[str]) -> str:
  """Return figures in a row, which breaks where the page is narrow."""
  return f"<div class='figures'>{''.join(figures)}</div>"


def thumbnail(image: np.ndarray, levels: int) -> Image.Image:
  """Return an image `[H, W, C]` of a model as a picture of its size."""
  pixels = to_shades(image, levels)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def film(images: np.ndarray, levels: int) -> str:
  """Return frames `[F, H, W, C]` of which one is seen, that of the number `--frame` of CSS."""
  strip = np.concatenate([*images], axis=0)
  _, height, width, _ = images.shape
  return (
    f"<div class='film' data-frames='{len(images)}' style='--frames:{len(images)};--frame:0;"
    f"aspect-ratio:{width}/{height}'>"
    f"<img src='{data_uri(thumbnail(strip, levels))}' alt='Frames between two images'></div>"
  )


def data_uri(picture: Image.Image) -> str:
  """Return a picture as an address that holds it, as PNG."""
  file = io.BytesIO()
  picture.save(file, "PNG")
  return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Charts and small pictures of the page as HTML.

Charts are SVG in the colours of the text around them, so that light and dark pages need no second picture. Small
pictures are enlarged by the browser, so that an answer takes a few kilobytes.
"""

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

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 480, 220, 46, 36, 12
_ACCENT = "var(--chart-accent, #c2410c)"  # of style.py; without it, as in the docs, the same
_FAINT = 'stroke="currentColor" stroke-opacity="0.15"'


def curve(rows: Sequence[Mapping[str, Any]]) -> str:
  """Return the bits/dim of training and validation over the steps, from a run's rows; "" if there are too few."""
  colours = {"bits_per_dim": "currentColor", "val_bits_per_dim": _ACCENT}
  points = {
    name: [(row["step"], row[name]) for row in rows if _is_finite(row.get(name)) and _is_finite(row.get("step"))]
    for name in colours
  }
  values = [value for series in points.values() for _, value in series]
  if len(points["val_bits_per_dim"]) < 2:
    return ""
  # As in `plot_curves`: the first rows would flatten the rest.
  low, high = min(values) - 0.02, float(np.quantile(values, 0.9)) + 0.2
  frame = _Frame((0, max(row["step"] for row in rows)), (low, high), "step", "bits/dim")
  lines = []
  for name, colour in colours.items():
    path = " ".join(f"{frame.x(step):.1f},{frame.y(min(value, high)):.1f}" for step, value in points[name])
    dash = "" if name == "val_bits_per_dim" else ' stroke-dasharray="4 3"'
    lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
  best = min(points["val_bits_per_dim"], key=lambda point: point[1])
  lines.append(f'<circle cx="{frame.x(best[0]):.1f}" cy="{frame.y(best[1]):.1f}" r="4" fill="{_ACCENT}"/>')
  about = f"Validation {best[1]:.4f} bits/dim at step {best[0]:,}, the single-sample bound"
  return _figure(frame.svg(lines, about), f"{about}. Dashed: training, with dropout and the current weights.")


def histogram(values: np.ndarray, value: float, of: str) -> str:
  """Return the histogram of bits/dim `[N]`, with a line at one value, and which place it has among them.

  Raises:
    InputError (a ValueError): if a value is not finite.
  """
  if not (np.all(np.isfinite(values)) and math.isfinite(value)):
    raise InputError("the bound of an image is not finite")
  low, high = float(min(values.min(), value)), float(max(values.max(), value))
  low, high = low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3
  counts, edges = np.histogram(values, bins=min(24, max(4, len(values) // 3)), range=(low, high))
  frame = _Frame((low, high), (0, counts.max()), "bits/dim, single-sample bound", "images")
  bars = [
    f'<rect x="{frame.x(a) + 1:.1f}" y="{frame.y(count):.1f}" width="{max(frame.x(b) - frame.x(a) - 1, 1):.1f}" '
    f'height="{frame.y(0) - frame.y(count):.1f}" fill="currentColor" fill-opacity="0.3"/>'
    for count, a, b in zip(counts, edges, edges[1:])
    if count
  ]
  at = frame.x(value)
  mark = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{frame.y(0):.1f}" stroke="{_ACCENT}" stroke-width="3"/>'
  fewer = int(np.sum(values < value))
  place = f" bits/dim: more than {fewer} of {len(values)} {of}, no more than the other {len(values) - fewer}"
  return _figure(frame.svg([*bars, mark], f"{value:.3f}{place}"), f"<b>{value:.3f}</b>{html.escape(place)}.")


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


class _Frame:
  """The axes of a chart."""

  def __init__(self, xs, ys, x_label, y_label):
    self._xs, self._ys, self._labels = xs, ys, (x_label, y_label)

  def x(self, value: float) -> float:
    low, high = self._xs
    return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 12)

  def y(self, value: float) -> float:
    low, high = self._ys
    return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

  def svg(self, content, about):
    ticks = []
    for value in _ticks(*self._ys):
      ticks.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{self.y(value):.1f}" y2="{self.y(value):.1f}" {_FAINT}/>'
        f'<text x="{_LEFT - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">{_number(value)}</text>'
      )
    for value in _ticks(*self._xs):
      ticks.append(
        f'<text x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{_number(value)}</text>'
      )
    middle = (_LEFT + _WIDTH - 12) / 2
    labels = (
      f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{self._labels[0]}</text>'
      f'<text x="12" y="{_TOP + 80}" text-anchor="middle" '
      f'transform="rotate(-90 12 {_TOP + 80})">{self._labels[1]}</text>'
    )
    return (
      f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(about)}" '
      f'font-size="12" fill="currentColor">{"".join(ticks)}{"".join(content)}{labels}</svg>'
    )


def _figure(svg, caption):
  return f"<figure class='chart'>{svg}<figcaption>{caption}</figcaption></figure>"


def _ticks(low, high):
  """Return some round numbers between two."""
  step = 10 ** math.floor(math.log10((high - low) / 2))
  step *= next((factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5), 10)
  first, last = math.ceil(low / step), math.floor(high / step)
  return [step * i for i in range(first, last + 1)]


def _number(value):
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


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

"""What a model says of one image: its place among others, its surprising positions, its class, its neighbours.

Each part is there by itself: one that fails is a line in its place.
"""

from collections.abc import Callable
import functools
import html

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo import charts, figures
from flowpp_tf.demo.engine import Engine, SavedModelEngine
from flowpp_tf.evaluation import heat_map

_NEIGHBOURS = 6


def explain(engine: Engine | SavedModelEngine, image: np.ndarray) -> str:
  """Return HTML on an image, integers `[H, W, C]` that fit the model."""
  of_classes = functools.cache(lambda: engine.class_log_likelihoods(image[np.newaxis])[0])  # two parts need it
  parts: list[tuple[str, Callable[[], str]]] = [
    ("Where it lies among others", lambda: _place(engine, image)),
    ("Where it is surprising", lambda: _positions(engine, image, of_classes)),
    ("Nearest training images", lambda: _neighbours(engine, image)),
  ]
  if engine.config.num_classes:
    parts.insert(2, ("Its class", lambda: _classes(engine, of_classes())))
  return "".join(f"<section><h3>{title}</h3>{_or_reason(part)}</section>" for title, part in parts)


def _or_reason(part):
  """Return what a part gives, or a line that says why it gives nothing."""
  try:
    return part()
  except InputError as error:
    return f"<p class='missing'>Not shown: {html.escape(str(error))}.</p>"


def _place(engine, image):
  of, values = engine.references
  return charts.histogram(values, float(engine.bound(image[np.newaxis])[0]), of)


def _positions(engine, image, of_classes):
  label = int(np.argmax(of_classes())) if engine.config.num_classes else None
  bits = engine.positions(image[np.newaxis], label)
  total = float(bits.total.sum())
  terms = (
    ("all bits", bits.total),
    ("prior", bits.prior),
    ("log-det", bits.log_det),
    ("dequantization", bits.dequantization),
  )
  maps = [
    figures.figure(
      heat_map(values[0]),
      f"{name}: {values.min():.1f} to {values.max():.1f} bits a position, {values.sum():.1f} in all",
    )
    for name, values in terms
  ]
  given = "" if label is None else f", given class {html.escape(class_name(engine, label))}"
  return (
    f"{figures.row(maps)}<p>Bright positions take more bits. The three terms add up to the first map, and its sum, "
    f"{total:.1f} bits or {total / image.size:.4f} bits/dim, is the importance-weighted bound of {engine.num_samples} "
    f"samples{given}.</p>"
  )


def _classes(engine, bounds):
  shares = np.exp(bounds - np.logaddexp.reduce(bounds))
  names = [class_name(engine, label) for label in range(len(shares))]
  return (
    f"{charts.bars(names, shares)}<p>Bayes' rule for classes that are equally frequent, from the bound given each.</p>"
  )


def _neighbours(engine, image):
  images, distances, count = engine.neighbours(image, _NEIGHBOURS)
  near = [
    figures.figure(figures.thumbnail(other, engine.config.levels), f"{distance / image.size**0.5:.2f}")
    for other, distance in zip(images, distances)
  ]
  what = html.escape(engine.known.what)
  return f"{figures.row(near)}<p>Root mean square differences, in levels, among {count:,} {what}.</p>"


def class_name(engine: Engine | SavedModelEngine, label: int) -> str:
  """Return the name of a class, its number if it has none."""
  names = engine.known.classes
  return str(names[label]) if label < len(names) else str(label)

"""Answer a visitor's inputs with pictures and text: the content of the page's tabs, without the page.

A request can hold anything in place of a number; invalid values raise an `InputError`.
"""

from collections.abc import Callable
import dataclasses
import functools
import html
import math
import pathlib

import numpy as np
from PIL import Image

from flowpp_tf.core.errors import InputError
from flowpp_tf.data.images import parts_left_out, read_for_model, upright_size
from flowpp_tf.demo import charts
from flowpp_tf.demo.engine import Engine, SavedModelEngine
from flowpp_tf.evaluation import (
  Reconstruction,
  codec_bytes,
  heat_map,
  image_grid,
  interpolate,
  reconstruct,
  write_animation,
)
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.types import Path

MOST_FRAMES = 32
HOTTEST = 2.0  # temperature
LAST_SEED = 2**53 - 1  # the largest integer that JavaScript represents exactly
WALL = (0.7, 0.85, 1.0)  # temperatures
_WALL_SIDE = 4  # images in a row
MOST_GUIDANCE = 4.0
ALL_CLASSES = -1
_NEIGHBOURS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class DemoHandlers:
  """The answers of a model. Each file replaces the last file of its kind in `folder`.

  Attributes:
    engine: the model.
    folder: folder for files.
    model_flag: flag that names the model to `bin/decompress`, such as --preset=digits.
  """

  engine: Engine | SavedModelEngine
  folder: pathlib.Path
  model_flag: str = ""

  def samples(
    self, n: int, temperature: float, seed: int, label: int | None = None, guidance: float = 0
  ) -> Image.Image:
    """Return a grid of samples, the same as from `bin/sample` for the seed.

    A model with classes draws the class `label`, or, for None or -1, all classes in turn.
    """
    n = _integer("number of images", n, 1, self.engine.most_samples)
    temperature = _number("temperature", temperature, 0, HOTTEST)
    return self._grid(self._sample(n, temperature, seed, label, guidance))

  def wall(self, seed: int, label: int | None = None, guidance: float = 0) -> tuple[Image.Image, ...]:
    """Return grids of samples from the same latents at the temperatures of `WALL`; arguments as in `samples`."""
    n = min(_WALL_SIDE**2, self.engine.most_samples)
    return tuple(self._grid(self._sample(n, temperature, seed, label, guidance)) for temperature in WALL)

  def interpolation(self, first: Path | None, last: Path | None, frames: int) -> tuple[Image.Image, str, str, str]:
    """Interpolate between uploads; return a grid, the path of an animation, frames as HTML, a line on both ends."""
    frames = _integer("number of frames", frames, 2, MOST_FRAMES)
    ends = np.stack([read_upload(path, self.engine.config) for path in (first, last)])
    images = interpolate(self.engine, ends[0], ends[1], frames)
    animation = self.folder / "interpolation.png"
    write_animation(images, self.engine.config.levels, animation)
    grid = self._grid(images, columns=min(frames, 8))
    film = charts.film(images, self.engine.config.levels)
    ends_text = f"Both ends as decoded: {Reconstruction(ends, images[[0, -1]])} from the images."
    return grid, str(animation), film, ends_text

  def score(self, path: Path | None) -> tuple[Image.Image, Image.Image, Image.Image, str]:
    """Return an upload as the model sees it, its reconstruction, their difference, and the scores as Markdown."""
    config = self.engine.config
    images = read_upload(path, config)[np.newaxis]
    result = reconstruct(self.engine, images)
    differences = result.visible_differences(config.levels)
    scores = {name: float(value[0]) for name, value in self.engine.scores(images).items()}
    text = _score_text(scores, self.engine.num_samples, [_fitted(path, config), f"{result}."])
    return self._grid(images), self._grid(result.decoded), self._grid(differences), text

  def explain(self, path: Path | None) -> str:
    """Return HTML on an upload: its place among others, surprising positions, classes, nearest training images."""
    return explain(self.engine, read_upload(path, self.engine.config))

  def compress(self, path: Path | None) -> tuple[str, str]:
    """Compress an upload as the model sees it; return the path of the archive, and HTML with its size."""
    image = read_upload(path, self.engine.config)
    data = self.engine.compress(image[np.newaxis])
    archive = self.folder / "image.fpp"
    archive.write_bytes(data)
    bound = float(self.engine.bound(image[np.newaxis])[0]) * image.size / 8
    fitted = _fitted(path, self.engine.config)
    return str(archive), archive_html(image, len(data), bound, archive.name, self.model_flag, fitted)

  def _sample(self, n, temperature, seed, label, guidance):
    seed = _integer("seed", seed, 0, LAST_SEED)
    classes = self.engine.config.num_classes
    if not classes:
      return self.engine.sample(n, temperature, seed)
    labels = np.arange(n) % classes
    if label not in (None, ALL_CLASSES):
      labels = np.full(n, _integer("class", label, 0, classes - 1))
    most_guidance = MOST_GUIDANCE if self.engine.can_guide else 0
    guidance = float(_number("guidance", guidance, 0, most_guidance))
    return self.engine.sample(n, temperature, seed, labels=labels, guidance=guidance)

  def _grid(self, images, columns=None):
    return image_grid(images, self.engine.config.levels, columns=columns)


def read_upload(path: Path | None, config: FlowPlusPlusConfig) -> np.ndarray:
  """Read an uploaded file by `read_for_model`; raise an `InputError` for None, or for a file that is not an image."""
  if path is None:
    raise InputError("there is no image yet: upload one, or click an example")
  return read_for_model(path, config, name=pathlib.Path(path).name)  # visitors do not know the path


def _score_text(scores, num_samples, lines):
  rows = [
    (f"**Bits/dim**, importance-weighted bound of {num_samples} samples", "bits_per_dim", ".4f"),
    ("**Log-likelihood**, the same bound in nats", "log_likelihood", ".2f"),
    ("**Complexity-corrected**, bits/dim minus those of a PNG; higher is stranger", "complexity_corrected", ".4f"),
    ("**Typicality**, distance in bits/dim from the validation mean; higher is stranger", "typicality", ".4f"),
  ]
  table = [f"| {label} | {scores[name]:{form}} |\n" for label, name, form in rows if not math.isnan(scores[name])]
  return (
    f"| | |\n|---|--:|\n{''.join(table)}\n{' '.join(filter(None, lines))}\n\n*Likelihood does not say whether an image "
    "is like those of training: a simple one, such as a blank, can be as likely as they are.*"
  )


def _fitted(path, config):
  """Return sentences on how the file was fitted to the size and the bits of the model, "" if it fits."""
  height, width, _ = config.image_shape
  size = upright_size(path, config.image_shape[2], config.pixel_levels)
  notes = []
  if size != (width, height):
    low = ", which makes its bits/dim low" if size[0] < width or size[1] < height else ""
    notes.append(f"The file has {size[0]}x{size[1]} pixels and was fitted to {width}x{height}{low}.")
  notes += [f"The file has {part}." for part in parts_left_out(path, config.pixel_levels)]
  return " ".join(notes)


def _number(name, value, low, high):
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
    raise InputError(f"the {name} must be from {low} to {high}, got {_shown(value)}")
  return value


def _integer(name, value, low, high):
  if _number(name, value, low, high) != int(value):
    raise InputError(f"the {name} must be a whole number, got {value}")
  return int(value)


def _shown(value):
  text = "nothing" if value is None else str(value)
  return text if len(text) < 40 else f"{text[:40]}..."


# --- The size of an archive, and of files of other codecs -----------------------------------------


def archive_html(image: np.ndarray, size: int, bound: float, name: str, model_flag: str, fitted: str) -> str:
  """Return HTML with the bytes of an archive, of the bound, and of other lossless files.

  Args:
    image: integers `[H, W, C]`.
    size: bytes of the archive.
    bound: bytes by the single-sample bound.
    name: file name of the archive.
    model_flag: flag that names the model to `bin/decompress`.
    fitted: how the image differs from its file, "" if it does not.
  """
  codec_sizes, missing = _codec_sizes(image)
  sizes = {"by its bound": bound, "this archive": size, **codec_sizes}
  command = html.escape(f"bin/decompress {name} {model_flag} --output=image.npy")
  content = "the pixels packed by LZMA, in fewer bytes than the model needs"
  if size > bound:
    content = f"a header, and the bits that bits-back coding begins with: {size - bound:,.0f} bytes more than the bound"
  fitted_html = f"<p>It holds the image as the model sees it. {html.escape(fitted)}</p>" if fitted else ""
  return (
    f"{charts.size_bars(sizes)}<p>The archive of one image has {content}. Many images in one archive share a header. "
    f"The pixels as numbers are {image.nbytes:,} bytes.{missing}</p><p>To decode it: <code>{command}</code></p>"
    f"{fitted_html}"
  )


def _codec_sizes(image):
  """Return the bytes of the image in other formats, and a sentence if they are missing."""
  try:
    sizes = codec_bytes(image)
  except InputError as error:
    return {}, f" Other formats are not shown: {html.escape(str(error))}."
  return {name: sizes[name] for name in ("PNG", "WebP", "JPEG XL") if name in sizes}, ""


# --- What a model tells about an image ------------------------------------------------------------


def explain(engine: Engine | SavedModelEngine, image: np.ndarray) -> str:
  """Return HTML on an image, integers `[H, W, C]` that fit the model."""

  @functools.cache  # two sections need it
  def class_bounds():
    return engine.class_log_likelihoods(image[np.newaxis])[0]

  sections: list[tuple[str, Callable[[], str]]] = [
    ("Where it lies among others", lambda: _place(engine, image)),
    ("Where it is surprising", lambda: _positions(engine, image, class_bounds)),
    ("Nearest training images", lambda: _neighbours(engine, image)),
  ]
  if engine.config.num_classes:
    sections.insert(2, ("Its class", lambda: _classes(engine, class_bounds())))
  return "".join(f"<section><h3>{title}</h3>{_html_or_reason(draw)}</section>" for title, draw in sections)


def _html_or_reason(draw):
  """Return the HTML of a section, or a line that tells why it is missing."""
  try:
    return draw()
  except InputError as error:
    return f"<p class='missing'>Not shown: {html.escape(str(error))}.</p>"


def _place(engine, image):
  what, values = engine.references
  return charts.histogram(values, float(engine.bound(image[np.newaxis])[0]), what)


def _positions(engine, image, class_bounds):
  label = int(np.argmax(class_bounds())) if engine.config.num_classes else None
  bits = engine.positions(image[np.newaxis], label)
  total = float(bits.total.sum())
  terms = {"all bits": bits.total, "prior": bits.prior, "log-det": bits.log_det, "dequantization": bits.dequantization}
  maps = []
  for name, values in terms.items():
    text = f"{name}: {values.min():.1f} to {values.max():.1f} bits a position, {values.sum():.1f} in all"
    maps.append(charts.figure(heat_map(values[0]), text))
  given = "" if label is None else f", given class {html.escape(class_name(engine, label))}"
  return (
    f"{charts.row(maps)}<p>Bright positions take more bits. The three terms add up to the first map, and its sum, "
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
  figures = []
  for other, distance in zip(images, distances):
    thumbnail = charts.thumbnail(other, engine.config.levels)
    figures.append(charts.figure(thumbnail, f"{distance / image.size**0.5:.2f}"))
  what = html.escape(engine.known.what)
  return f"{charts.row(figures)}<p>Root mean square differences, in levels, among {count:,} {what}.</p>"


def class_name(engine: Engine | SavedModelEngine, label: int) -> str:
  """Return the name of a class, or its number if it has no name."""
  names = engine.known.classes
  return str(names[label]) if label < len(names) else str(label)

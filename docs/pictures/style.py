"""How all pictures look: colours by what they mean, light and dark, letters, and how a picture becomes a file.

The light version has a white ground, that of the site and of GitHub, so that it can be read wherever it is opened; the
dark one is transparent, and fits any dark page.
"""

import collections
import functools
import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import font_manager  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

IMAGES = pathlib.Path(__file__).resolve().parent.parent / "images"
PICTURES = {  # the module that draws each, by a function of its name, and the kind of its file
  "bound": ("diagrams", "svg"),
  "coupling": ("diagrams", "svg"),
  "multi_scale": ("diagrams", "svg"),
  "training_curves": ("charts", "svg"),
  "ablations": ("charts", "svg"),
  "field_ranks": ("charts", "svg"),
  "samples_first": ("samples", "png"),
  "samples_digits": ("samples", "png"),
  "samples_fashion_mnist": ("samples", "png"),
  "samples_digits_by_class": ("samples", "png"),
  "samples_photos": ("samples", "png"),
  "temperatures": ("samples", "png"),
  "interpolation": ("samples", "png"),
  "classes": ("samples", "png"),
  "neighbours": ("samples", "png"),
  "demo": ("screens", "png"),
  "calibration": ("posteriors", "png"),
  "epidemic": ("posteriors", "svg"),
}
WIDTH = 8.0  # inches of each chart and diagram: letters of 14 points have 9 pixels on a screen of 400
matplotlib.rcParams.update(
  {
    "font.size": 14,
    "axes.titlesize": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "mathtext.fontset": "cm",
    "svg.hashsalt": "flowpp_tf",  # the same file from the same figures
  }
)


_COLOURS = {  # light and dark; lines and bars have those of Okabe and Ito, which the colour-blind tell apart
  "ending": ("", "_dark"),  # of the file's name
  "ground": ("#ffffff", None),  # behind all; None for transparent
  "text": ("#1f2328", "#e6e8ee"),
  "muted": ("#57606a", "#b4b9c4"),  # notes, lines and axes
  "faint": ("#d8dde3", "#434957"),  # grids
  "ours": ("#0072b2", "#56b4e9"),  # this package, its time, test images, and validation
  "training": ("#009e73", "#35c79b"),  # training images and curves
  "other": ("#d55e00", "#f58b45"),  # other images, what is looked for
  "memory": ("#b5568a", "#d991b8"),  # a fifth curve
  "value": ("#f0f1f3", "#343843"),  # in diagrams, tensors; also the half that a coupling keeps
  "network": ("#fbe3c8", "#634b2f"),  # in diagrams, networks
  "bijector": ("#cfe1f4", "#2f4f70"),  # in diagrams, bijectors; also the half that a coupling transforms
  "term": ("#d6ecd2", "#365a3c"),  # in diagrams, terms of the bound
}
Theme = collections.namedtuple("Theme", _COLOURS)
LIGHT, DARK = THEMES = [Theme(*colours) for colours in zip(*_COLOURS.values())]


def settings(theme):
  """Return a context in which matplotlib makes figures in the colours of a theme."""
  colours = {"figure.facecolor": theme.ground or "none", "axes.facecolor": "none", "axes.edgecolor": theme.muted}
  colours |= dict.fromkeys(["text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], theme.text)
  colours |= dict.fromkeys(["xtick.color", "ytick.color"], theme.muted)
  lines = matplotlib.cycler(color=[theme.ours, theme.other, theme.training, theme.memory, theme.muted])
  return matplotlib.rc_context({**colours, "axes.prop_cycle": lines})


def figure(theme, height, rows=1, columns=1, **options):
  """Return a figure of the width of all, and its axes in the colours of a theme."""
  with settings(theme):
    fig, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options)
  fig.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
  return fig, grid


def save(picture, name, ending, theme):
  """Write a figure or an image into the folder of all pictures; return the path."""
  path = IMAGES / f"{name}{theme.ending}.{ending}"
  path.parent.mkdir(exist_ok=True)
  if ending == "svg":
    picture.savefig(path, format="svg", metadata={"Date": None})
    plt.close(picture)
  else:
    picture.save(path, optimize=True)
  return path


@functools.cache
def font(size):
  """The letters of the charts, for images, in pixels."""
  return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def grid(pixels, theme, scale, gap, columns_wide=(), rows_wide=(), row_labels=(), column_labels=()):
  """Return an image of rows of images, enlarged without smoothing, with labels.

  Args:
    pixels: uint8 `[rows, columns, H, W, 1 or 3]`.
    theme: `Theme`.
    scale: side of a pixel.
    gap: pixels between images.
    columns_wide: indices of the columns left of which the gap is six times as wide.
    rows_wide: indices of the rows above which it is.
    row_labels: texts left of the rows.
    column_labels: pairs of a column and a text that begins above it.
  """
  rows, columns, height, width = pixels.shape[:4]
  size = 36
  starts = lambda count, side, wide: [
    i * (scale * side + gap) + 5 * gap * sum(i >= index for index in wide) for i in range(count)
  ]
  left = max((round(font(size).getlength(text)) + size // 2 for text in row_labels), default=0)
  top = 3 * size // 2 if column_labels else 0
  lefts = [left + start for start in starts(columns, width, columns_wide)]
  tops = [top + start for start in starts(rows, height, rows_wide)]
  whole = (lefts[-1] + scale * width, tops[-1] + scale * height)
  result = Image.new("RGBA", whole, theme.ground or (0, 0, 0, 0))
  for i in range(rows):
    for j in range(columns):
      tile = Image.fromarray(np.broadcast_to(pixels[i, j], (height, width, 3)).copy())
      result.paste(tile.resize((scale * width, scale * height), Image.Resampling.NEAREST), (lefts[j], tops[i]))
  draw = ImageDraw.Draw(result)
  for y, text in zip(tops, row_labels):
    draw.text((left - size // 3, y + scale * height / 2), text, theme.text, font(size), anchor="rm")
  for column, text in column_labels:
    draw.text((lefts[column], size * 0.6), text, theme.text, font(size), anchor="lm")
  return result

"""Diagrams: the bound, a coupling, and the scales of a config. They need neither TensorFlow nor weights."""

import dataclasses

from matplotlib import patches
import style

from flowpp_tf.config import get_config
from flowpp_tf.config.structure import parse_structure


@dataclasses.dataclass
class Diagram:
  """Boxes and arrows, in inches, in the colours of a theme."""

  theme: style.Theme
  height: float

  def __post_init__(self):
    self.figure, ((self.axes,),) = style.figure(self.theme, self.height)
    self.axes.set(xlim=(0, style.WIDTH), ylim=(0, self.height))
    self.axes.axis("off")
    self.figure.set_layout_engine("none")
    self.axes.set_position((0, 0, 1, 1))

  def text(self, x, y, text, color="text", size=13, align="center") -> None:
    """Write a text, centred in height."""
    self.axes.text(x, y, text, va="center", ha=align, fontsize=size, color=getattr(self.theme, color))

  def patch(self, left, bottom, width, height, kind) -> None:
    """Draw a rectangle."""
    color = getattr(self.theme, kind)
    style_of = dict(facecolor=color, edgecolor=self.theme.muted, linewidth=1)
    self.axes.add_patch(patches.Rectangle((left, bottom), width, height, **style_of))

  def box(self, x, y, width, text, kind, note=None, height=0.62) -> None:
    """Draw a box around its centre, with a text and a note below it."""
    self.patch(x - width / 2, y - height / 2, width, height, kind)
    self.text(x, y + (height * 0.2 if note else 0), text)
    if note:
      self.text(x, y - height * 0.23, note, "muted" if "$" not in note else "text", size=11 if "$" not in note else 13)

  def line(self, *points, dotted=False) -> None:
    """Draw a line through points."""
    self.axes.plot(*zip(*points), color=self.theme.muted, linewidth=1.4, linestyle=":" if dotted else "-")

  def arrow(self, *points, dotted=False) -> None:
    """Draw a line through points, with a head at its end."""
    self.line(*points, dotted=dotted)
    (x0, y0), (x1, y1) = points[-2:]
    length = abs(x1 - x0) + abs(y1 - y0)
    near = (x1 - 0.02 * (x1 - x0) / length, y1 - 0.02 * (y1 - y0) / length)
    arrow = dict(arrowstyle="-|>,head_width=.3,head_length=.5", color=self.theme.muted, shrinkA=0, shrinkB=0)
    self.axes.annotate("", points[-1], near, arrowprops=arrow)

  def key(self, y, *entries) -> None:
    """Say what colours mean, in a line: triples of a left side, a kind and a text."""
    for x, kind, text in entries:
      self.patch(x, y - 0.1, 0.2, 0.2, kind)
      self.text(x + 0.28, y, text, size=12, align="left")


def bound(theme):
  """From an image to its bound."""
  to = Diagram(theme, 4.7)
  context, noise, flow, terms = 4.3, 3.2, 1.8, 0.5
  edge = 0.31
  to.box(0.95, context, 1.3, "image $x$", "value")
  to.box(2.65, context, 1.5, "context net", "network")
  to.box(0.95, noise, 1.3, "noise $\\epsilon$", "value", "$\\mathcal{N}(0, I)$")
  to.box(2.65, noise, 1.5, "couplings", "bijector")
  to.box(4.4, noise, 1.3, "sigmoid", "bijector")
  to.box(5.7, noise, 0.7, "$u$", "value")
  to.arrow((1.6, context), (1.9, context))
  to.arrow((2.65, context - edge), (2.65, noise + edge))
  to.box(0.95, flow, 1.3, "$x + u$", "value")
  to.box(2.65, flow, 1.5, "logit", "bijector")
  to.box(4.4, flow, 1.3, "couplings", "bijector")
  to.box(5.7, flow, 0.7, "$z$", "value")
  to.arrow((5.7, noise - edge), (5.7, 2.5), (0.95, 2.5), (0.95, flow + edge))
  to.arrow((0.3, context), (0.12, context), (0.12, flow), (0.3, flow))
  for y in (noise, flow):
    for begin, end in ((1.6, 1.9), (3.4, 3.75), (5.05, 5.35)):
      to.arrow((begin, y), (end, y))
  to.box(7.15, noise, 1.6, "dequantization", "term", "$- \\log q(u|x)$")
  to.box(3.4, terms, 3.0, "log-det", "term", "$\\log |\\det \\, \\partial z / \\partial (x + u)|$")
  to.box(5.69, terms, 0.9, "prior", "term", "$\\log p(z)$")
  to.box(7.15, terms, 1.6, "bound", "term", "$\\leq \\log P(x)$")
  to.arrow((6.05, noise), (6.35, noise), dotted=True)
  for x in (2.65, 4.4, 5.7):
    to.arrow((x, flow - edge), (x, terms + edge), dotted=True)
  to.arrow((7.15, noise - edge), (7.15, terms + edge))
  to.arrow((6.14, terms), (6.35, terms))
  to.text(5.07, terms, "+")
  to.text(7.32, flow, "+")
  to.key(context, (3.8, "value", "value"), (4.75, "network", "network"), (5.97, "bijector", "bijector"))
  to.key(context - 0.36, (3.8, "term", "term of the bound"))
  return to.figure


def coupling(theme):
  """A coupling, with the symbols of the paper."""
  to = Diagram(theme, 4.1)
  kept, network, transformed = 3.35, 2.1, 0.75
  to.box(0.4, transformed, 0.6, "$x$", "value")
  to.text(0.4, transformed - 0.5, "split", "muted", 12)
  for y, name in ((kept, "$x_1$"), (transformed, "$x_2$")):
    to.box(1.33, y, 0.6, name, "value")
  to.arrow((0.7, transformed), (1.03, transformed))
  to.arrow((0.4, transformed + 0.31), (0.4, kept), (1.03, kept))
  to.box(6.7, kept, 0.6, "$y_1$", "value")
  to.arrow((1.63, kept), (6.4, kept))
  to.text(4.0, kept + 0.2, "kept", "muted", 12)
  to.box(3.6, network, 3.4, "conditioner", "network", "$(a, b, \\pi, \\mu, s) = \\mathrm{NN}(x_1)$", 0.7)
  to.arrow((2.3, kept), (2.3, network + 0.35))
  to.box(
    2.78, transformed, 1.85, "mixture CDF", "bijector", "$\\Sigma_i \\, \\pi_i \\, \\sigma((x_2 - \\mu_i) / s_i)$", 0.8
  )
  to.box(4.52, transformed, 1.2, "inverse", "bijector", "sigmoid $\\sigma^{-1}$", 0.8)
  to.box(5.82, transformed, 0.98, "affine", "bijector", "$e^{\\tanh a} \\cdot + b$", 0.8)
  to.arrow((2.78, network - 0.35), (2.78, transformed + 0.4))
  to.text(2.88, 1.45, "$\\pi, \\mu, s$", align="left")
  to.arrow((5.3, network), (5.82, network), (5.82, transformed + 0.4))
  to.text(5.92, 1.45, "$a, b$", align="left")
  to.box(6.87, transformed, 0.6, "$y_2$", "value")
  for begin, end in ((1.63, 1.855), (3.705, 3.92), (5.12, 5.33), (6.31, 6.57)):
    to.arrow((begin, transformed), (end, transformed))
  to.box(7.65, transformed, 0.5, "$y$", "value")
  to.arrow((7.17, transformed), (7.4, transformed))
  to.arrow((7.0, kept), (7.65, kept), (7.65, transformed + 0.31))
  to.text(7.9, transformed - 0.5, "concatenate", "muted", 12, "right")
  to.key(3.9, (2.2, "value", "value"), (3.3, "network", "network"), (4.7, "bijector", "bijector"))
  return to.figure


def multi_scale(theme, config="cifar10"):
  """The stages of a config's structure, from the image to the latent, read from the config."""
  config = get_config(config)
  stages = parse_structure(config.structure, config.image_shape)
  step = 1.05
  to = Diagram(theme, 0.55 + step * len(stages))
  shape = lambda sides: " × ".join(map(str, sides))
  top = to.height - 0.3
  to.key(top, (3.05, "value", "kept half"), (4.75, "bijector", "transformed half"))
  to.text(1.15, top, "logits, " + shape(config.image_shape))
  for stage in stages:
    middle = top - step / 2
    to.arrow((1.15, top - 0.17), (1.15, middle + 0.3))
    words = {"squeeze": "squeeze", "columns": "split by columns", "channels": "split by channels"}[stage.kind]
    to.box(1.15, middle, 2.0, words, "bijector", height=0.58)
    if stage.kind == "squeeze":
      _squeeze(to, 3.05, middle)
      to.text(4.95, middle, "2 × 2 pixels become channels", "muted", 12, "left")
    else:
      for i in range(stage.couplings):
        _halves(to, 3.05 + 0.72 * i, middle, stage.kind, i % 2 == 1)
      count = f"{stage.couplings} coupling{'s' * (stage.couplings > 1)}"
      halves = shape((*stage.split_shape[:2], stage.split_shape[2] // 2))
      left = 3.05 + 0.72 * stage.couplings + 0.1
      to.text(left, middle + 0.13, count, size=12, align="left")
      to.text(left, middle - 0.13, f"halves {halves}", "muted", 12, "left")
    top -= step
    to.line((1.15, middle - 0.29), (1.15, top + 0.14))
    last = stage is stages[-1]
    to.text(1.15, top, ("latent z, " if last else "") + shape(stage.output_shape))
  return to.figure


def _halves(to, left, middle, kind, swapped):
  """A coupling as a square: which columns or channels it keeps and which it transforms."""
  side, count = 0.56, 8 if kind == "columns" else 2
  for i in range(count):
    first = i % 2 == (kind == "channels")  # is it in the half that is kept first?
    color = "value" if first != swapped else "bijector"
    if kind == "columns":
      to.patch(left + i * side / count, middle - side / 2, side / count, side, color)
    else:  # sheets behind each other, of which the front one is the first half
      offset = 0.16 * (1 - i)
      to.patch(left + offset, middle - side / 2 + offset, side - 0.16, side - 0.16, color)


def _squeeze(to, left, middle):
  """2x2 pixels, an arrow, four channels of one pixel."""
  side = 0.56
  colors = ("value", "bijector", "network", "term")
  for i, color in enumerate(colors):
    to.patch(left + i % 2 * side / 2, middle - i // 2 * side / 2, side / 2, side / 2, color)
  to.arrow((left + side + 0.1, middle), (left + side + 0.5, middle))
  for i, color in reversed(list(enumerate(colors))):
    to.patch(left + side + 0.62 + 0.09 * i, middle - side / 2 + 0.09 * i, side / 2, side / 2, color)

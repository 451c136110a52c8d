"""The picture of docs/architecture.md, light and dark: from an image to its bound.

python docs/architecture.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

LIGHT = dict(value="#f2f2f2", network="#fbe3c8", bijector="#d5e4f5", term="#dcefd8", line="#555555", note="#444444")
LIGHT |= dict(text="#000000", page="#ffffff")
DARK = dict(value="#34373f", network="#5a4630", bijector="#2f4a66", term="#37543a", line="#a8adb8", note="#b8bcc6")
DARK |= dict(text="#e6e8ee", page="#1e2129")
CONTEXT_ROW, NOISE_ROW, FLOW_ROW, SUM_ROW = 5.4, 4.0, 2.1, 0.55
HALF = 0.38  # of a box's height


class Diagram:
  """Boxes and arrows in one set of colors."""

  def __init__(self, ax, colors) -> None:
    self.ax = ax
    self.colors = colors

  def text(self, x, y, text, color="text", **style) -> None:
    """Write a text, centred in height."""
    self.ax.text(x, y, text, va="center", color=self.colors[color], **style)

  def box(self, x, y, width, text, kind, note=None) -> None:
    """Draw a box around its centre, with a text and a note in small letters below it."""
    self.patch((x - width / 2, y - HALF), width, 2 * HALF, kind)
    self.text(x, y + (0.11 if note else 0), text, ha="center", fontsize=9)
    if note:
      self.text(x, y - 0.2, note, "note", ha="center", fontsize=6.3, family="monospace")

  def patch(self, corner, width, height, kind) -> None:
    """Draw a rectangle."""
    style = dict(facecolor=self.colors[kind], edgecolor=self.colors["line"], linewidth=0.8)
    self.ax.add_patch(plt.Rectangle(corner, width, height, **style))

  def arrow(self, *points, style="-") -> None:
    """Draw a line through points, with a head at its end."""
    color = self.colors["line"]
    self.ax.plot(*zip(*points), color=color, linewidth=1, linestyle=style)
    (x0, y0), (x1, y1) = points[-2:]
    length = abs(x1 - x0) + abs(y1 - y0)
    near = (x1 - 0.02 * (x1 - x0) / length, y1 - 0.02 * (y1 - y0) / length)
    self.ax.annotate("", points[-1], near, arrowprops=dict(arrowstyle="-|>", color=color, shrinkA=0, shrinkB=0))


def draw(path, colors) -> None:
  """Draw the picture into a file."""
  fig, ax = plt.subplots(figsize=(12.5, 5.6), facecolor=colors["page"])
  to = Diagram(ax, colors)

  # The dequantizer: from noise to u, given the image.
  to.box(1.0, CONTEXT_ROW, 1.7, "image x", "value", "0 .. levels - 1")
  to.box(3.6, CONTEXT_ROW, 2.5, "context net", "network", "layers/context_net.py")
  to.box(1.0, NOISE_ROW, 1.7, "noise e", "value", "~ N(0, I)")
  to.box(3.6, NOISE_ROW, 2.5, "couplings", "bijector", "models/dequantizer.py")
  to.box(6.6, NOISE_ROW, 2.5, "sigmoid", "bijector", "bijectors/sigmoid.py")
  to.box(9.2, NOISE_ROW, 1.7, "u in (0, 1)", "value")
  to.arrow((1.85, CONTEXT_ROW), (2.35, CONTEXT_ROW))
  to.arrow((3.6, CONTEXT_ROW - HALF), (3.6, NOISE_ROW + HALF))
  to.text(3.72, 4.7, "condition", fontsize=7.5, color="note")

  # The flow: from x + u to z.
  to.box(1.0, FLOW_ROW, 1.7, "x + u", "value", "in [0, levels)")
  to.box(3.6, FLOW_ROW, 2.5, "logit", "bijector", "bijectors/pixels_to_logit.py")
  to.box(6.6, FLOW_ROW, 2.5, "couplings", "bijector", "models/coupling_flow.py")
  to.box(9.2, FLOW_ROW, 1.7, "z", "value", "latent")
  to.arrow((9.2, NOISE_ROW - HALF), (9.2, 3.05), (1.0, 3.05), (1.0, FLOW_ROW + HALF))
  to.arrow((0.15, CONTEXT_ROW), (-0.2, CONTEXT_ROW), (-0.2, FLOW_ROW), (0.15, FLOW_ROW))
  for y in (NOISE_ROW, FLOW_ROW):
    for begin, end in ((1.85, 2.35), (4.85, 5.35), (7.85, 8.35)):
      to.arrow((begin, y), (end, y))

  # The terms of the bound.
  to.box(12.1, NOISE_ROW, 3.1, "log|det du / de| - log N(e)", "term", "dequantization: -log q(u|x)")
  to.box(5.1, SUM_ROW, 5.5, "log|det dz / d(x + u)|", "term", "log_det")
  to.box(9.2, SUM_ROW, 1.7, "log N(z)", "term", "prior")
  to.box(12.1, SUM_ROW, 3.1, "bound of log P(x)", "term", "nats per image")
  to.arrow((10.05, NOISE_ROW), (10.55, NOISE_ROW), style=":")
  for x in (3.6, 6.6, 9.2):
    to.arrow((x, FLOW_ROW - HALF), (x, SUM_ROW + HALF), style=":")
  to.arrow((12.1, NOISE_ROW - HALF), (12.1, SUM_ROW + HALF))
  to.arrow((10.05, SUM_ROW), (10.55, SUM_ROW))
  to.text(8.1, SUM_ROW, "+", ha="center", fontsize=12)
  to.text(12.22, 2.3, "+", fontsize=12)

  for i, (name, kind) in enumerate(
    [("value", "value"), ("network", "network"), ("bijector", "bijector"), ("term of the bound", "term")]
  ):
    x = 7.0 + 1.5 * i
    to.patch((x, CONTEXT_ROW - 0.1), 0.2, 0.2, kind)
    to.text(x + 0.3, CONTEXT_ROW, name, fontsize=7.5)
  ax.set(xlim=(-0.3, 13.75), ylim=(0.05, 5.9), aspect="equal")
  ax.axis("off")
  fig.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.05, facecolor=colors["page"])
  plt.close(fig)


def main() -> None:
  path = pathlib.Path(__file__).with_suffix(".png")
  draw(path, LIGHT)
  draw(path.with_stem(f"{path.stem}_dark"), DARK)


if __name__ == "__main__":
  main()

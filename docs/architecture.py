"""The picture of docs/architecture.md: from an image to its bound.

python docs/architecture.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

VALUE, NETWORK, BIJECTOR, TERM = "#f2f2f2", "#fbe3c8", "#d5e4f5", "#dcefd8"
LINE = "#555555"
CONTEXT_ROW, NOISE_ROW, FLOW_ROW, SUM_ROW = 5.4, 4.0, 2.1, 0.55
HALF = 0.38  # of a box's height


def box(ax, x, y, width, text, color, note=None) -> None:
  """Draw a box around its centre, with a text and a note in small letters below it."""
  corner = (x - width / 2, y - HALF)
  ax.add_patch(plt.Rectangle(corner, width, 2 * HALF, facecolor=color, edgecolor=LINE, linewidth=0.8))
  ax.text(x, y + (0.11 if note else 0), text, ha="center", va="center", fontsize=9)
  if note:
    ax.text(x, y - 0.2, note, ha="center", va="center", fontsize=6.3, family="monospace", color="#444444")


def arrow(ax, *points, style="-") -> None:
  """Draw a line through points, with a head at its end."""
  ax.plot(*zip(*points), color=LINE, linewidth=1, linestyle=style)
  (x0, y0), (x1, y1) = points[-2:]
  length = abs(x1 - x0) + abs(y1 - y0)
  near = (x1 - 0.02 * (x1 - x0) / length, y1 - 0.02 * (y1 - y0) / length)
  ax.annotate("", points[-1], near, arrowprops=dict(arrowstyle="-|>", color=LINE, linewidth=1, shrinkA=0, shrinkB=0))


def main() -> None:
  fig, ax = plt.subplots(figsize=(12.5, 5.6))

  # The dequantizer: from noise to u, given the image.
  box(ax, 1.0, CONTEXT_ROW, 1.7, "image x", VALUE, "0 .. levels - 1")
  box(ax, 3.6, CONTEXT_ROW, 2.5, "context net", NETWORK, "layers/context_net.py")
  box(ax, 1.0, NOISE_ROW, 1.7, "noise e", VALUE, "~ N(0, I)")
  box(ax, 3.6, NOISE_ROW, 2.5, "couplings", BIJECTOR, "models/dequantizer.py")
  box(ax, 6.6, NOISE_ROW, 2.5, "sigmoid", BIJECTOR, "bijectors/sigmoid.py")
  box(ax, 9.2, NOISE_ROW, 1.7, "u in (0, 1)", VALUE)
  arrow(ax, (1.85, CONTEXT_ROW), (2.35, CONTEXT_ROW))
  arrow(ax, (3.6, CONTEXT_ROW - HALF), (3.6, NOISE_ROW + HALF))
  ax.text(3.72, 4.7, "condition", fontsize=7.5, va="center", color="#444444")

  # The flow: from x + u to z.
  box(ax, 1.0, FLOW_ROW, 1.7, "x + u", VALUE, "in [0, levels)")
  box(ax, 3.6, FLOW_ROW, 2.5, "logit", BIJECTOR, "bijectors/pixels_to_logit.py")
  box(ax, 6.6, FLOW_ROW, 2.5, "couplings", BIJECTOR, "models/coupling_flow.py")
  box(ax, 9.2, FLOW_ROW, 1.7, "z", VALUE, "latent")
  arrow(ax, (9.2, NOISE_ROW - HALF), (9.2, 3.05), (1.0, 3.05), (1.0, FLOW_ROW + HALF))
  arrow(ax, (0.15, CONTEXT_ROW), (-0.2, CONTEXT_ROW), (-0.2, FLOW_ROW), (0.15, FLOW_ROW))
  for y in (NOISE_ROW, FLOW_ROW):
    for begin, end in ((1.85, 2.35), (4.85, 5.35), (7.85, 8.35)):
      arrow(ax, (begin, y), (end, y))

  # The terms of the bound.
  box(ax, 12.1, NOISE_ROW, 3.1, "log|det du / de| - log N(e)", TERM, "dequantization: -log q(u|x)")
  box(ax, 5.1, SUM_ROW, 5.5, "log|det dz / d(x + u)|", TERM, "log_det")
  box(ax, 9.2, SUM_ROW, 1.7, "log N(z)", TERM, "prior")
  box(ax, 12.1, SUM_ROW, 3.1, "bound of log P(x)", TERM, "nats per image")
  arrow(ax, (10.05, NOISE_ROW), (10.55, NOISE_ROW), style=":")
  for x in (3.6, 6.6, 9.2):
    arrow(ax, (x, FLOW_ROW - HALF), (x, SUM_ROW + HALF), style=":")
  arrow(ax, (12.1, NOISE_ROW - HALF), (12.1, SUM_ROW + HALF))
  arrow(ax, (10.05, SUM_ROW), (10.55, SUM_ROW))
  ax.text(8.1, SUM_ROW, "+", ha="center", va="center", fontsize=12)
  ax.text(12.22, 2.3, "+", va="center", fontsize=12)

  for i, (name, color) in enumerate(
    [("value", VALUE), ("network", NETWORK), ("bijector", BIJECTOR), ("term of the bound", TERM)]
  ):
    x = 7.0 + 1.5 * i
    ax.add_patch(plt.Rectangle((x, CONTEXT_ROW - 0.1), 0.2, 0.2, facecolor=color, edgecolor=LINE, linewidth=0.6))
    ax.text(x + 0.3, CONTEXT_ROW, name, va="center", fontsize=7.5)
  ax.set(xlim=(-0.3, 13.75), ylim=(0.05, 5.9), aspect="equal")
  ax.axis("off")
  fig.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=120, bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
  main()

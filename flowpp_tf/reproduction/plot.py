"""Figure 1 of the paper for an ablation: training light, validation dark, over steps and over CPU-seconds."""

from collections.abc import Mapping, Sequence
import io

import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.io.files import write_file
from flowpp_tf.reproduction.variants import VARIANTS
from flowpp_tf.types import Path

_COLORS = ("black", "tab:blue", "tab:red", "tab:green", "tab:purple")


def plot_ablation(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path, title: str = "") -> None:
  """Plot the curves of the variants, means over seeds, as PNG or SVG by the path's ending.

  Args:
    curves: by variant, from `table.curves`.
    path: path of the file.
    title: text above the plot.
  """
  import_extra("matplotlib", "a plot of curves").use("agg")  # here, because the import is slow, too
  plt = import_extra("matplotlib.pyplot", "a plot of curves")

  figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
  for color, (variant, curve) in zip(_COLORS, curves.items()):
    for axes, by in zip(panels, ("step", "cpu_seconds")):
      axes.plot(curve[by], curve["bits_per_dim"], color=color, alpha=0.3)
      axes.plot(curve[by], curve["val_bits_per_dim"], color=color, label=VARIANTS[variant].title)
  if limits := limits_of(curves):
    panels[0].legend(title="dark: validation; light: training")
    panels[0].set_ylim(*limits)
  panels[0].set(xlabel="step", ylabel="bits/dim")
  panels[1].set(xlabel="CPU-seconds of training steps")
  for axes in panels:
    axes.grid(alpha=0.3)
  figure.suptitle(title)
  image = io.BytesIO()
  figure.savefig(image, dpi=120, format=str(path).rpartition(".")[2])
  plt.close(figure)
  write_file(path, image.getvalue())


def limits_of(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[float, float] | None:
  """Return the lowest and the highest bits/dim to show: the first rows would flatten the rest; None of no number."""
  values = np.array([x for curve in curves.values() for x in (*curve["bits_per_dim"], *curve["val_bits_per_dim"])])
  finite = values[np.isfinite(values)]
  return (finite.min() - 0.03, np.quantile(finite, 0.85) + 0.05) if finite.size else None

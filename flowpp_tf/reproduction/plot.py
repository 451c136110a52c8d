"""Figure 1 of the paper for an ablation: training light, validation dark, over steps and over CPU-seconds."""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import numpy as np

from flowpp_tf.core.extras import import_extra
from flowpp_tf.io.files import write_file
from flowpp_tf.reproduction.variants import VARIANTS
from flowpp_tf.types import Path

_COLORS = ("black", "tab:blue", "tab:red", "tab:green", "tab:purple")


def plot_ablation(rows_of: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path, title: str = "") -> None:
  """Plot the curves of the variants, means over seeds, as PNG or SVG by the path's ending.

  Args:
    rows_of: rows of metrics of the seeds' runs, by variant.
    path: path of the file.
    title: text above the plot.
  """
  import_extra("matplotlib", "a plot of curves").use("agg")  # here, because the import is slow, too
  plt = import_extra("matplotlib.pyplot", "a plot of curves")

  figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
  values: list[float] = []
  for color, (variant, runs) in zip(_COLORS, rows_of.items()):
    runs = [rows for rows in runs if rows]
    if not runs:
      continue
    count = min(map(len, runs))
    mean = {
      name: np.mean([[row.get(name, np.nan) for row in rows[:count]] for rows in runs], axis=0)
      for name in ("step", "cpu_seconds", "bits_per_dim", "val_bits_per_dim")
    }
    values += [*mean["bits_per_dim"], *mean["val_bits_per_dim"]]
    for axes, by in zip(panels, ("step", "cpu_seconds")):
      axes.plot(mean[by], mean["bits_per_dim"], color=color, alpha=0.3)
      axes.plot(mean[by], mean["val_bits_per_dim"], color=color, label=VARIANTS[variant].title)
  finite = [value for value in values if np.isfinite(value)]
  if finite:
    panels[0].legend(title="dark: validation; light: training")
    # Without these limits the first rows would flatten the rest
    panels[0].set_ylim(min(finite) - 0.03, np.quantile(finite, 0.85) + 0.05)
  panels[0].set(xlabel="step", ylabel="bits/dim")
  panels[1].set(xlabel="CPU-seconds of training steps")
  for axes in panels:
    axes.grid(alpha=0.3)
  figure.suptitle(title)
  image = io.BytesIO()
  figure.savefig(image, dpi=120, format=str(path).rpartition(".")[2])
  plt.close(figure)
  write_file(path, image.getvalue())

"""Figure 1 of the paper for the ablations that benchmarks/results.json has. No TensorFlow."""

from charts import RESULTS
import style

from flowpp_tf.reproduction.plot import limits_of
from flowpp_tf.reproduction.variants import VARIANTS

PART = "ablations_"
AXES = {"step": "training step", "cpu_seconds": "CPU-seconds of training steps"}


def ablations(theme):
  """Validation dark and training light, a row for each data set, over steps and over CPU-seconds; means over seeds."""
  tables = {part.removeprefix(PART): content["runs"][0]["result"] for part, content in RESULTS.items() if PART in part}
  colors = (theme.text, theme.ours, theme.other, theme.training, theme.memory)
  fig, axes = style.figure(theme, 1 + 3.4 * len(tables), len(tables), 2, sharey="row")
  for row, (data, table) in zip(axes, tables.items()):
    for (variant, curve), color in zip(table["curves"].items(), colors, strict=True):
      for ax, by in zip(row, AXES):
        ax.plot(curve[by], curve["bits_per_dim"], color=color, linewidth=2, alpha=0.35)
        ax.plot(curve[by], curve["val_bits_per_dim"], color=color, linewidth=2, label=VARIANTS[variant].title)
    for ax in row:
      ax.grid(color=theme.faint, linewidth=0.8)
      ax.xaxis.set_major_formatter("{x:,.0f}")
      ax.locator_params(nbins=5)
    row[0].set_ylim(*limits_of(table["curves"]))
    row[0].set_title(data, loc="left", color=theme.text)
    row[0].set_ylabel("bits/dim", color=theme.text)
  for ax, name in zip(axes[-1], AXES.values()):
    ax.set_xlabel(name, color=theme.text)
  fig.legend(
    *axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, labelcolor=theme.text
  )
  return fig

"""Charts of what is stored: results of the benchmarks, and metrics of the presets. No TensorFlow."""

import json
import math
import sys

import style

sys.path.append(str(style.IMAGES.parents[1] / "benchmarks"))
import ablations as ablations_benchmark  # noqa: E402
from run_all import NOTES, PRESETS  # noqa: E402
from tables import results, stored_results  # noqa: E402

RESULTS = stored_results()


def training_curves(theme):
  """Bits/dim of training and validation over the steps of each preset."""
  height = math.ceil(len(NOTES) / 2)
  fig, axes = style.figure(theme, 3.1 * height, height, 2)
  for ax in axes.flat[len(NOTES) :]:
    ax.set_axis_off()
  for ax, preset in zip(axes.flat, NOTES):
    ax.grid(color=theme.faint, linewidth=0.8)
    rows = history(preset)
    steps, best = [row["step"] for row in rows], min(rows, key=lambda row: row["val_bits_per_dim"])
    place = best["step"], best["val_bits_per_dim"]
    ax.plot(*place, "o", color=theme.ours, markersize=8)
    above = best["val_bits_per_dim"] > best["bits_per_dim"]  # the side where the other curve is not
    offset = dict(xytext=(0, 10 if above else -21), textcoords="offset points", ha="right")
    ax.annotate(f"{best['val_bits_per_dim']:.2f}", place, color=theme.ours, **offset)
    for key, color in (("bits_per_dim", theme.training), ("val_bits_per_dim", theme.ours)):
      ax.plot(steps, [row[key] for row in rows], color=color, linewidth=2.5)
    ax.margins(y=0.2)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_title(preset, loc="left", color=theme.text)
    ax.set_xlim(0, 1.03 * steps[-1])
    ax.locator_params("y", nbins=5)
    ax.locator_params("x", nbins=4)  # labels of 80,000 steps are wide
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])
  for ax in axes[:, 0]:
    ax.set_ylabel("bits/dim", color=theme.text)
  for ax in axes.flat[len(NOTES) - 2 : len(NOTES)]:
    ax.set_xlabel("training step", color=theme.text)
  for y, name, color in ((0.88, "validation, EMA weights", theme.ours), (0.76, "training", theme.training)):
    axes[0, 0].text(0.97, y, name, ha="right", color=color, transform=axes[0, 0].transAxes)
  return fig


def history(preset):
  """Rows of the metrics that ship with a preset."""
  lines = (PRESETS / preset / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if "val_bits_per_dim" in row]


def ablations(theme):
  """Validation dark and training light, a row for each data set, over steps and over CPU-seconds; means over seeds."""
  part = "ablations_"
  tables = {name.removeprefix(part): results(RESULTS, name)[0] for name in RESULTS if part in name}
  colors = (theme.text, theme.ours, theme.other, theme.training, theme.memory)
  fig, axes = style.figure(theme, 1 + 3.4 * len(tables), len(tables), 2, sharey="row")
  for row, (data, table) in zip(axes, tables.items()):
    for (variant, curve), color in zip(table["curves"].items(), colors, strict=True):
      for ax, by in zip(row, ("step", "cpu_seconds")):
        ax.plot(curve[by], curve["bits_per_dim"], color=color, linewidth=2, alpha=0.35)
        title = ablations_benchmark.VARIANTS[variant].title
        ax.plot(curve[by], curve["val_bits_per_dim"], color=color, linewidth=2, label=title)
    for ax in row:
      ax.grid(color=theme.faint, linewidth=0.8)
      ax.xaxis.set_major_formatter("{x:,.0f}")
      ax.locator_params(nbins=5)
    row[0].set_ylim(*ablations_benchmark.limits_of(table["curves"]))
    row[0].set_title(data, loc="left", color=theme.text)
    row[0].set_ylabel("bits/dim", color=theme.text)
  for ax, label in zip(axes[-1], ("training step", "CPU-seconds of training steps")):
    ax.set_xlabel(label, color=theme.text)
  fig.legend(
    *axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, labelcolor=theme.text
  )
  return fig


def field_ranks(theme):
  """Rank histograms of examples/field_calibration.py; the band is two standard errors of a bin around equal counts."""
  (found,) = results(RESULTS, "field_calibration")
  fig, axes = style.figure(theme, 2.8, 1, len(found["histograms"]), sharey=True)
  for ax, (name, histogram) in zip(axes[0], found["histograms"].items()):
    counts = histogram["counts"]
    expected = found["tests"] / len(counts)
    spread = 2 * (expected * (1 - 1 / len(counts))) ** 0.5
    ax.axhspan(expected - spread, expected + spread, color=theme.other, alpha=0.25, linewidth=0)
    ax.bar(range(len(counts)), counts, 0.8, color=theme.ours)
    ax.set_title(f"{name}, p = {histogram['p']:.2f}", loc="left", color=theme.text)
    ax.set_xticks([-0.5, len(counts) - 0.5], ["0", str(found["samples"])])
    ax.set_xlabel("rank among posterior samples", color=theme.text)
  axes[0, 0].set_ylabel("fields", color=theme.text)
  return fig

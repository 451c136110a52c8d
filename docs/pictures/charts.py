"""Charts of what is stored: results of the benchmarks, evaluations and metrics of the presets. No TensorFlow."""

import json
import math
import sys

import style

sys.path.append(str(style.IMAGES.parents[1] / "benchmarks"))
import ablations as ablations_benchmark  # noqa: E402
import figures  # noqa: E402
import growth as growth_benchmark  # noqa: E402

RESULTS = json.loads((figures.ROOT / "benchmarks" / "results.json").read_text())
TITLES = {"fashion_mnist": "Fashion-MNIST, {} test images", "photos": "photos, {} test patches"}


def bits_per_dim(theme):
  """Bars of bits/dim: two presets, Glow, and codecs on the same images."""
  rows = {name: bars(name) for name in TITLES}
  ratios = [len(found) + 0.5 for found in rows.values()]
  fig, axes = style.figure(theme, 5.6, 2, sharex=True, gridspec_kw=dict(height_ratios=ratios))
  for ax, (preset, found) in zip(axes[:, 0], rows.items()):
    for y, (name, value, error, sheet) in enumerate(reversed(found)):
      color = {"flowpp_tf": theme.ours, "Glow": theme.glow}.get(name, theme.codec)
      ax.barh(y, value, 0.72, color=color, xerr=error, error_kw=dict(ecolor=theme.text, elinewidth=1.6, capsize=4))
      text = f"{value:.3f}" + (f" ± {error:.3f}" if error else "")
      if sheet:
        ax.plot([sheet, sheet], [y - 0.36, y + 0.36], color=theme.text, linewidth=2.5)
        text = f"{value:.2f}, sheet {sheet:.2f}"
      ax.text(value + (error or 0) + 0.08, y, text, va="center", color=theme.text, fontsize=12)
    ax.set_yticks(range(len(found)), [name for name, *_ in reversed(found)])
    ax.tick_params(axis="y", length=0)
    ax.set_title(TITLES[preset].format(f"{figures.evaluation(preset)['images']:,}"), loc="left", color=theme.text)
    ax.set_xlim(0, 6.9)
  ax.set_xlabel("bits/dim, fewer is better", color=theme.text)
  return fig


def bars(preset):
  """Rows of a name, bits/dim, its standard error and, of a codec, bits/dim on one sheet; the fewest bits first."""
  value, error, _ = figures.bound(preset)
  rows = [("flowpp_tf", value, error, None)]
  if preset == "fashion_mnist":
    rows.append(("Glow", float(figures.GLOW_FASHION_MNIST), None, None))
  for codec in figures.evaluation(preset)["codecs"]:
    rows.append((codec["codec"], codec["each"], codec["standard_error"], codec["sheet"]))
  return sorted(rows, key=lambda row: row[1])


def release(theme):
  """Bars of time and memory of cifar10 relative to the authors' release."""
  found = figures.figures(RESULTS)
  rows = {
    "training step": ("release_train", theme.ours),
    "evaluation": ("release_evaluate", theme.ours),
    "sampling": ("release_sample", theme.ours),
    "start to first step": ("release_first_step", theme.ours),
    "peak memory, training": ("release_memory", theme.memory),
  }
  fig, ((ax,),) = style.figure(theme, 3.6)
  for y, (key, color) in enumerate(reversed(rows.values())):
    ax.barh(y, float(found[key]), 0.72, color=color)
    ax.text(float(found[key]) + 0.015, y, found[key], va="center", color=theme.text)
  ax.axvline(1, color=theme.muted, linewidth=2)
  ax.text(0.99, len(rows) - 0.45, "the authors' release", ha="right", va="bottom", color=theme.muted)
  ax.set_yticks(range(len(rows)), list(reversed(rows)))
  ax.tick_params(axis="y", length=0)
  ax.set(xlim=(0, 1.04), ylim=(-0.5, len(rows) + 0.05), xlabel="share of the release's time or memory, less is better")
  return fig


def growth(theme):
  """Bars of the exponents with which time and memory of a step grow."""
  (run,) = RESULTS["growth"]["runs"]
  groups = growth_benchmark.by_quantity(run["result"])
  fig, ((ax,),) = style.figure(theme, 4.6)
  kinds = (("time", "ms_step", theme.ours), ("memory", "tensors_gib", theme.memory))
  for y, group in enumerate(reversed(groups.values())):
    for i, (name, cost, color) in enumerate(kinds):
      exponent, place = growth_benchmark.exponent(group, cost), y + 0.19 - 0.38 * i
      ax.barh(place, exponent, 0.36, color=color)
      ax.text(max(exponent, 0) + 0.03, place, f"{exponent:.2f}", va="center", color=theme.text, fontsize=12)
      if y == len(groups) - 1:
        ax.text(0.05, place, name, va="center", color=theme.on_bars, fontsize=12)
  for power, name in ((1, "linear"), (2, "quadratic")):
    ax.vlines(power, -0.5, len(groups) - 0.42, color=theme.muted, linewidth=1.4, linestyle="--", zorder=0)
    ax.text(power, len(groups) - 0.4, name, ha="center", va="bottom", color=theme.muted)
  labels = [f"{name}, {group[0]['value']} to {group[-1]['value']}" for name, group in groups.items()]
  ax.set_yticks(range(len(groups)), list(reversed(labels)))
  ax.tick_params(axis="y", length=0)
  ax.set(xlim=(0, 2.5), ylim=(-0.5, len(groups) + 0.05), xlabel="exponent: cost of a step ~ quantity to this power")
  return fig


def training_curves(theme):
  """Bits/dim of training and validation over the steps of each preset."""
  height = math.ceil(len(figures.NOTES) / 2)
  fig, axes = style.figure(theme, 3.1 * height, height, 2)
  for ax in axes.flat[len(figures.NOTES) :]:
    ax.set_axis_off()
  for ax, preset in zip(axes.flat, figures.NOTES):
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
    ax.locator_params(nbins=5)
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])
  for ax in axes[:, 0]:
    ax.set_ylabel("bits/dim", color=theme.text)
  for ax in axes.flat[len(figures.NOTES) - 2 : len(figures.NOTES)]:
    ax.set_xlabel("training step", color=theme.text)
  for y, name, color in ((0.88, "validation, EMA weights", theme.ours), (0.76, "training", theme.training)):
    axes[0, 0].text(0.97, y, name, ha="right", color=color, transform=axes[0, 0].transAxes)
  return fig


def history(preset):
  """Rows of the metrics that ship with a preset."""
  lines = (figures.PRESETS / preset / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if "val_bits_per_dim" in row]


def ablations(theme):
  """Validation dark and training light, a row for each data set, over steps and over CPU-seconds; means over seeds."""
  part = "ablations_"
  tables = {name.removeprefix(part): stored["runs"][0]["result"] for name, stored in RESULTS.items() if part in name}
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

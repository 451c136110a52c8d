"""Rank histograms of examples/field_calibration.py, from its stored results. No TensorFlow."""

import json

import style

RESULTS = style.IMAGES.parents[1] / "benchmarks" / "field_calibration.json"
_STANDARD_ERRORS = 2


def field_ranks(theme):
  """A histogram for each parameter; the band is two standard errors of a bin around equal counts."""
  found = json.loads(RESULTS.read_text())
  fig, axes = style.figure(theme, 2.8, 1, len(found["histograms"]), sharey=True)
  for ax, (name, histogram) in zip(axes[0], found["histograms"].items()):
    counts = histogram["counts"]
    expected = found["tests"] / len(counts)
    spread = _STANDARD_ERRORS * (expected * (1 - 1 / len(counts))) ** 0.5
    ax.axhspan(expected - spread, expected + spread, color=theme.other, alpha=0.25, linewidth=0)
    ax.bar(range(len(counts)), counts, 0.8, color=theme.ours)
    ax.set_title(f"{name}, p = {histogram['p']:.2f}", loc="left", color=theme.text)
    ax.set_xticks([-0.5, len(counts) - 0.5], ["0", str(found["samples"])])
    ax.set_xlabel("rank among posterior samples", color=theme.text)
  axes[0, 0].set_ylabel("fields", color=theme.text)
  return fig

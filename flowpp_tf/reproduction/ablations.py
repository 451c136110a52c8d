"""`bin/reproduce --what=ablations`: the runs, then table and plot of what is there."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import write_file, write_json
from flowpp_tf.reproduction.plot import plot_ablation
from flowpp_tf.reproduction.runs import Run, complete, plan
from flowpp_tf.reproduction.table import curves, markdown, readings, summary
from flowpp_tf.reproduction.variants import VARIANTS


def run_ablations(
  data: str,
  output: pathlib.Path,
  seeds: int = 3,
  variants: Sequence[str] = tuple(VARIANTS),
  jobs: int = 1,
  more: Mapping[str, Any] | None = None,
  say: Callable[[str], None] = print,
) -> list[str]:
  """Complete the runs of an ablation, and write table.md, table.json, curves.png and curves.svg after each.

  Args:
    data: name of the data set, one of `BASES`.
    output: folder, which holds all; the same call resumes what is there.
    seeds: number of seeds.
    variants: names.
    jobs: number of processes at a time.
    more: settings of all runs in place of those of the recipe, such as `steps`.
    say: called with each line for the user.

  Returns:
    What failed, a line for each run.

  Raises:
    InputError (a ValueError): for wrong arguments.
    Stopped: if a signal asked to stop; the states are saved.
  """
  if len({*variants}) < len(variants) or not variants:
    raise InputError(f"`variants` must be different names of {', '.join(VARIANTS)}, got {', '.join(variants)}")
  runs = plan(data, variants, seeds, output, more)
  for run in runs[: len(variants)]:
    say(f"{VARIANTS[run.variant].title}: {_sizes(run, runs[0])}")

  def write_table():
    try:
      write_results(data, variants, runs, output)
    except OSError as error:  # the runs go on; the table is written again after the next
      say(f"the table cannot be written: {gate.reason(error)}")

  failures = complete(runs, jobs, write_table, say)
  say(write_results(data, variants, runs, output))
  return failures


def write_results(data: str, variants: Sequence[str], runs: Sequence[Run], output: pathlib.Path) -> str:
  """Write table and plot of the runs that are there; return the table in Markdown."""
  found, budget = readings(runs)
  table = summary(found, budget, variants) | {"curves": curves(runs, variants)}
  text = markdown(table, f"Ablations on {data}", len(runs) - len(found))
  output.mkdir(parents=True, exist_ok=True)
  write_file(output / "table.md", text)
  write_json(output / "table.json", table)
  for ending in ("png", "svg"):
    plot_ablation(table["curves"], output / f"curves.{ending}", data)
  return text


def _sizes(run, full):
  parameters, of_full = run.parameters, full.parameters
  widths = [line[2:] for line in run.flags() if line.startswith(("--filters=", "--dequant_filters="))]
  against = "" if full.variant != "full" else f", {100 * (parameters / of_full - 1):+.2f} %"
  return f"{parameters:,} parameters{against}{'; ' if widths else ''}{', '.join(widths)}"

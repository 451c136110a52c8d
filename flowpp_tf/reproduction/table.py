"""The table of an ablation: means over seeds, standard errors, at equal steps and at equal CPU-seconds.

One run is read at both: at its last step, and where its CPU time is that of the run that took least. CPU time is that
of the training steps, see `cpu_seconds` in docs/training.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.reproduction.runs import Run
from flowpp_tf.reproduction.variants import VARIANTS

CURVE = ("step", "cpu_seconds", "bits_per_dim", "val_bits_per_dim")  # the last two are training and validation


class Estimate(NamedTuple):
  """Mean over seeds and its standard error, None each where there are too few."""

  mean: float | None
  standard_error: float | None
  seeds: int

  def __str__(self) -> str:
    if self.mean is None:
      return ""
    return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" ± {self.standard_error:.3f}")


def estimate(values: Iterable[float]) -> Estimate:
  """Return the mean of values and its standard error, the sample deviation by the root of their number.

  Examples:
    >>> from flowpp_tf.reproduction import estimate
    >>> print(estimate([1.0, 2.0, 3.0]))
    2.000 ± 0.577
  """
  values = list(values)
  if not values:
    return Estimate(None, None, 0)
  error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
  return Estimate(float(np.mean(values)), error, len(values))


class Reading(NamedTuple):
  """What is read of a complete run, in bits/dim except for `parameters`, `steps` and `cpu_seconds`."""

  variant: str
  seed: int
  parameters: int
  steps: int
  cpu_seconds: float
  test: float
  train: float
  validation: float
  validation_at_cpu_seconds: float


def readings(runs: Sequence[Run]) -> tuple[list[Reading], float | None]:
  """Return what is read of the complete runs, and the CPU-seconds at which they are compared.

  Raises:
    InputError (a ValueError): if runs were trained on different data.
  """
  complete = [(run, run.rows(), test) for run in runs if (test := run.test()) is not None]
  complete = [(run, rows, test) for run, rows, test in complete if rows]
  run_of = {row["data"]: run.name for run, rows, _ in complete for row in rows if row.get("data")}
  if len(run_of) > 1:  # `data_dir` may differ between the commands, and its files
    runs_and_data = " and ".join(f"{name} on data {digest}" for digest, name in run_of.items())
    raise InputError(f"runs to compare must be on the same data, got {runs_and_data}")
  budget = min((float(rows[-1].get("cpu_seconds", math.nan)) for _, rows, _ in complete), default=math.nan)
  found = []
  for run, rows, test in complete:
    seconds = [row.get("cpu_seconds", math.nan) for row in rows]
    validation = [row["val_bits_per_dim"] for row in rows]
    found.append(
      Reading(
        run.variant,
        run.seed,
        run.parameters,
        rows[-1]["step"],
        seconds[-1],
        test,
        rows[-1]["bits_per_dim"],
        validation[-1],
        float(np.interp(budget, seconds, validation)),
      )
    )
  return found, budget if found else None


def curves(runs: Sequence[Run], variants: Sequence[str]) -> dict[str, dict[str, list[float]]]:
  """Return the means over seeds of `CURVE`, by variant, as far as all of a variant's runs with metrics have come.

  Args:
    runs: complete or not.
    variants: names, in their order; those without metrics are left out.
  """
  found = {}
  for name in variants:
    of = [rows for run in runs if run.variant == name and (rows := run.rows())]
    count = min(map(len, of), default=0)
    mean = lambda column: np.mean([[row.get(column, math.nan) for row in rows[:count]] for rows in of], axis=0)
    if count:
      found[name] = {column: mean(column).tolist() for column in CURVE}
  return found


def summary(found: Sequence[Reading], budget: float | None, variants: Sequence[str]) -> dict[str, Any]:
  """Return the table as numbers, for JSON.

  Args:
    found: from `readings`.
    budget: CPU-seconds at which runs are compared, from there too.
    variants: names, in their order.
  """
  full = {one.seed: one for one in found if one.variant == "full"}
  rows = []
  for name in variants:
    of = [one for one in found if one.variant == name]
    paired = [(one, full[one.seed]) for one in of if one.seed in full]
    columns: dict[str, Estimate] = {
      "test": estimate(one.test for one in of),
      "test_less_full": estimate(one.test - other.test for one, other in paired),
      "validation": estimate(one.validation for one in of),
      "gap": estimate(one.validation - one.train for one in of),
      "validation_at_cpu_seconds": estimate(one.validation_at_cpu_seconds for one in of),
      "validation_at_cpu_seconds_less_full": estimate(
        one.validation_at_cpu_seconds - other.validation_at_cpu_seconds for one, other in paired
      ),
      "cpu_seconds": estimate(one.cpu_seconds for one in of),
    }
    paper, of_full = VARIANTS[name].paper, VARIANTS["full"].paper
    rows.append(
      {
        "variant": name,
        "title": VARIANTS[name].title,
        "seeds": len(of),
        "parameters": of[0].parameters if of else None,
        "steps": of[0].steps if of else None,
        **{column: value._asdict() for column, value in columns.items()},
        "paper": paper,
        "paper_less_full": None if paper is None or of_full is None else paper - of_full,
      }
    )
  return {"cpu_seconds": budget, "rows": rows, "runs": [one._asdict() for one in found]}


def cells(table: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
  """Yield the rows of the table as texts, the first the head.

  Args:
    table: from `summary`.
  """
  text = lambda row, column: str(Estimate(**row[column]))
  budget = "" if table["cpu_seconds"] is None else f" {table['cpu_seconds']:,.0f}"
  yield (
    "variant",
    "parameters",
    "seeds",
    "test",
    "less full",
    "validation",
    "gap",
    "CPU-seconds",
    f"validation at{budget} CPU-seconds",
    "less full",
    "paper, CIFAR-10",
    "less full",
  )
  for row in table["rows"]:
    seconds, is_full = row["cpu_seconds"]["mean"], row["variant"] == "full"
    difference = row["paper_less_full"]
    yield (
      row["title"],
      "" if row["parameters"] is None else f"{row['parameters']:,}",
      str(row["seeds"]),
      text(row, "test"),
      "" if is_full else text(row, "test_less_full"),
      text(row, "validation"),
      text(row, "gap"),
      "" if seconds is None else f"{seconds:,.0f}",
      text(row, "validation_at_cpu_seconds"),
      "" if is_full else text(row, "validation_at_cpu_seconds_less_full"),
      "" if row["paper"] is None else f"{row['paper']:.3f}",
      "" if is_full or difference is None else f"{difference:.3f}",
    )


def markdown(table: Mapping[str, Any], heading: str, left: int) -> str:
  """Return the table as a page in Markdown; `left` is the number of runs that are not complete."""
  head, *rows = (f"| {' | '.join(row)} |" for row in cells(table))
  lines = [
    f"# {heading}",
    "",
    *([f"**Incomplete: {left} run(s) are left.** The same command resumes.", ""] if left else []),
    "bits/dim in the single-sample bound, mean ± standard error over seeds; differences from the full model are of "
    "runs with the same seed. Test: the weights of the best validation. Gap: validation (EMA weights) less training "
    "(current weights, dropout), both of the last interval.",
    "",
    head,
    "|---" * (head.count("|") - 1) + "|",
    *rows,
  ]
  return "\n".join(lines) + "\n"

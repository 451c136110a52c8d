"""Repeat the paper's ablations, table 2 and figure 1: the full model and its variants at equal size, over seeds.

python benchmarks/ablations.py --data=digits                                             fifteen runs
python benchmarks/ablations.py --data=digits --seeds=1 --variants=full,affine_coupling   two of them

The runs are `bin/train`, one after the other. The same command resumes: complete runs are skipped. The folder --runs
has

    full_seed0.flags         the recipe of a run: `bin/train --flagfile=full_seed0.flags --workdir=full_seed0`
    full_seed0/              the run
    full_seed0.json          its test bound, once the run is complete
    table.md                 means over the complete runs, written again after each run

One run is read twice: at its last step, and where its CPU time is that of the run that took least. CPU time is that of
the training steps, see `cpu_seconds` in docs/training.md.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
import pathlib
import signal
import subprocess
import sys
from typing import Any, NamedTuple

from absl import app, flags
import numpy as np

from flowpp_tf.config import Recipe
from flowpp_tf.config.size import model_size
from tables import markdown, write_json

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
STOPPED = {3, 4, *(code for n in (signal.SIGINT, signal.SIGTERM) for code in (128 + n, -n))}  # exit codes of bin/train
CURVE = ("step", "cpu_seconds", "bits_per_dim", "val_bits_per_dim")  # the last two are training and validation


class Variant(NamedTuple):
  """What a variant changes in the config, and bits/dim of CIFAR-10 after 400 epochs in the paper's table 2."""

  title: str
  changes: Mapping[str, Any]
  paper: float | None


class Base(NamedTuple):
  """The full model of a data set, as a config and the settings that replace those of its recipe."""

  config: str
  settings: Mapping[str, Any]


VARIANTS = {
  "full": Variant("Flow++", {}, 3.165),
  "affine_coupling": Variant("affine coupling", {"coupling": "affine"}, 3.200),
  "uniform_dequantization": Variant("uniform dequantization", {"dequantization": "uniform"}, 3.292),
  "no_attention": Variant("no attention", {"attention": False}, 3.193),
  "spline_coupling": Variant("rational quadratic coupling", {"coupling": "rational_quadratic"}, None),
}

# Rates are constant after the warm-up, as the paper's, so that a run can be read at any step. Widths are those at which
# the variants come within 1 % of the full model's parameters.
_REDUCED = {
  "attention": True,
  "structure": "squeeze,channels:2,columns:2",
  "components": 8,
  "precision": "float32",  # bfloat16 is slow on cores without AMX
  "num_samples": 1,
}
_FASHION_MNIST = {
  **_REDUCED,
  "filters": 48,
  "dequant_filters": 48,
  "batch_size": 8,
  "schedule": "linear:3e-3@300,hold",
  "steps": 4000,
  "validate_every": 400,
  "eval_images": 2000,
}
_PHOTOS = {
  **_REDUCED,
  "filters": 44,
  "dequant_filters": 44,
  "schedule": "linear:3e-3@200,hold",
  "steps": 2500,
  "validate_every": 250,
}
BASES = {
  "digits": Base("digits", {"dequant_filters": 40, "steps": 1500, "num_samples": 1}),
  "fashion_mnist": Base("fashion_mnist", _FASHION_MNIST),
  "photos": Base("photos_crops", _PHOTOS),
  "cifar10": Base("cifar10_400_epochs", {"num_samples": 1}),
}


def recipe_of(data, variant):
  """Return the recipe of a variant, as wide as the full model has parameters."""
  full = Recipe.load(BASES[data].config).replace(**BASES[data].settings)
  changes = VARIANTS[variant].changes
  return full.replace(**changes, **matched_width(full.config, changes))


def matched_width(full, changes):
  """Return the filters with which a changed model comes closest to the number of parameters of the full one.

  The paper widens what an ablation makes smaller: it has 108 filters with affine couplings and 104 with uniform
  dequantization, rather than 96.

  Returns:
    `filters`, and `dequant_filters` of a model with a dequantizer: multiples of the heads, both wider by about the same
    factor. `{}` if the changed model has the same number of parameters.
  """
  wanted, changed = model_size(full).parameters, dataclasses.replace(full, **changes)
  if model_size(changed).parameters == wanted:
    return {}
  widths = []
  for filters in range(full.heads, 4 * full.filters, full.heads):
    widths.append({"filters": filters})
    if changed.dequantization == "variational":
      near = filters * full.dequant_filters / full.filters / full.heads
      multiples = {int(near), int(near) + 1} - {0}
      widths[-1:] = [{"filters": filters, "dequant_filters": full.heads * count} for count in sorted(multiples)]
  error = lambda width: abs(model_size(dataclasses.replace(changed, **width)).parameters - wanted)
  return min(widths, key=error)


class Run:
  """A run of a variant with a seed, in the folder of all runs; `more` are settings in place of those of the recipe."""

  def __init__(self, data, variant, seed, folder, more):
    self.variant, self.seed, self.name = variant, seed, f"{variant}_seed{seed}"
    self.workdir, self.flagfile, self._result = (folder / f"{self.name}{end}" for end in ("", ".flags", ".json"))
    recipe = recipe_of(data, variant).replace(**more, seed=seed)
    self.parameters = model_size(recipe.config).parameters
    settings = {"config": BASES[data].config, **recipe.settings}
    self.flags = "".join(f"--{name}={_text(value)}\n" for name, value in settings.items())
    if self.flagfile.exists() and self.flagfile.read_text() != self.flags:
      raise app.UsageError(f"{self.flagfile} is a run of other settings than this command's; give another --runs")

  def train(self, *more):
    """Begin or resume the run by `bin/train`, with more flags; return its exit code."""
    self.flagfile.parent.mkdir(parents=True, exist_ok=True)
    self.flagfile.write_text(self.flags)
    command = [sys.executable, ROOT / "bin" / "train", f"--flagfile={self.flagfile}", f"--workdir={self.workdir}"]
    process = subprocess.Popen([*command, *more])
    # bin/train saves its state. Ctrl-C reaches it without this process.
    handlers = {signal.SIGTERM: lambda number, frame: process.terminate(), signal.SIGINT: lambda number, frame: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    process.wait()
    for number, handler in before.items():
      signal.signal(number, handler)
    if process.returncode == 0:
      bound = json.loads((self.workdir / "evaluation.json").read_text())["test"]["bounds"][0]
      write_json(self._result, {"test": bound["bits_per_dim"]})
    return process.returncode

  @property
  def test(self):
    """The single-sample bound of the test images, bits/dim, NaN if it is not finite; None if the run is incomplete."""
    return _number(json.loads(self._result.read_text())["test"]) if self._result.exists() else None

  def rows(self):
    """Return the rows of the metrics of a complete run; null, which is not finite, is NaN."""
    lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: _number(value) for name, value in json.loads(line).items()} for line in lines]


def _text(value):
  return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _number(value):
  return math.nan if value is None else value


class Estimate(NamedTuple):
  """Mean over seeds and its standard error, None each if there are too few."""

  mean: float | None
  standard_error: float | None
  seeds: int

  def __str__(self):
    if self.mean is None:
      return ""
    return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" ± {self.standard_error:.3f}")


def estimate(values):
  """Return the mean of values and its standard error, the sample deviation by the root of their number."""
  values = list(values)
  if not values:
    return Estimate(None, None, 0)
  error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
  return Estimate(float(np.mean(values)), error, len(values))


def readings(runs):
  """Return what is read of complete runs, a `dict` each, and the CPU-seconds at which they are compared.

  Raises:
    app.UsageError: if runs were trained on different data.
  """
  found = [(run, run.rows()) for run in runs]
  name_of = {row.get("data"): run.name for run, rows in found for row in rows}
  if len(name_of) > 1:  # of another --data_dir, or files that were replaced
    names = " and ".join(f"{name} on data {digest}" for digest, name in name_of.items())
    raise app.UsageError(f"runs to compare must be on the same data, got {names}")
  budget = min((rows[-1]["cpu_seconds"] for _, rows in found), default=None)
  return [_reading(run, rows, budget) for run, rows in found], budget


def _reading(run, rows, budget):
  seconds, validation = ([row[name] for row in rows] for name in ("cpu_seconds", "val_bits_per_dim"))
  return {
    "variant": run.variant,
    "seed": run.seed,
    "parameters": run.parameters,
    "steps": rows[-1]["step"],
    "cpu_seconds": seconds[-1],
    "test": run.test,
    "train": rows[-1]["bits_per_dim"],
    "validation": validation[-1],
    "validation_at_cpu_seconds": float(np.interp(budget, seconds, validation)),
  }


def summary(runs, variants):
  """Return the table and the curves of complete runs as numbers, for JSON; variants in their order."""
  found, budget = readings(runs)
  full = {one["seed"]: one for one in found if one["variant"] == "full"}
  rows = []
  for name in variants:
    of = [one for one in found if one["variant"] == name]
    values = lambda column: estimate(one[column] for one in of)._asdict()
    less_full = lambda column: estimate(
      one[column] - full[one["seed"]][column] for one in of if one["seed"] in full
    )._asdict()
    paper = VARIANTS[name].paper
    rows.append(
      {
        "variant": name,
        "title": VARIANTS[name].title,
        "seeds": len(of),
        "parameters": of[0]["parameters"] if of else None,
        "steps": of[0]["steps"] if of else None,
        "test": values("test"),
        "test_less_full": less_full("test"),
        "validation": values("validation"),
        "gap": estimate(one["validation"] - one["train"] for one in of)._asdict(),
        "validation_at_cpu_seconds": values("validation_at_cpu_seconds"),
        "validation_at_cpu_seconds_less_full": less_full("validation_at_cpu_seconds"),
        "cpu_seconds": values("cpu_seconds"),
        "paper": paper,
        "paper_less_full": None if paper is None else paper - VARIANTS["full"].paper,
      }
    )
  curves = {name: _curve([run.rows() for run in runs if run.variant == name]) for name in variants}
  return {"cpu_seconds": budget, "rows": rows, "runs": found, "curves": {k: v for k, v in curves.items() if v}}


def _curve(seeds):
  """Return the means over seeds of `CURVE`, None without a run."""
  mean = lambda column: np.mean([[row[column] for row in rows] for rows in seeds], axis=0).tolist()
  return {column: mean(column) for column in CURVE} if seeds else None


def cells(table):
  """Yield the rows of a table from `summary` as texts, the first the head."""
  text = lambda row, column: str(Estimate(**row[column]))
  budget = "" if table["cpu_seconds"] is None else f" {table['cpu_seconds']:,.0f}"
  yield (
    f"variant|parameters|seeds|test|less full|validation|gap|CPU-seconds|validation at{budget} CPU-seconds|less full|"
    "paper, CIFAR-10|less full"
  ).split("|")
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


def limits_of(curves):
  """Return the lowest and the highest bits/dim to show: the first rows would flatten the rest; None without one."""
  values = np.array([x for curve in curves.values() for x in (*curve["bits_per_dim"], *curve["val_bits_per_dim"])])
  finite = values[np.isfinite(values)]
  return (finite.min() - 0.03, np.quantile(finite, 0.85) + 0.05) if finite.size else None


def write(runs, folder):
  """Write table.md of the complete runs; return the table."""
  complete = [run for run in runs if run.test is not None]
  table = summary(complete, list(dict.fromkeys(run.variant for run in runs)))
  text = f"{len(complete)} of {len(runs)} runs\n\n{markdown(list(cells(table)))}\n"
  (folder / "table.md").write_text(text)
  print(text, flush=True)
  return table


def main(argv):
  del argv
  folder = pathlib.Path(FLAGS.runs or f"runs/ablations_{FLAGS.data}")
  settings = {name: FLAGS[name].value for name in ("steps", "validate_every", "eval_images")}
  more = {name: value for name, value in settings.items() if value is not None}
  # All variants of the first seed first, so that a table of one seed is there early.
  names = dict.fromkeys(FLAGS.variants)
  runs = [Run(FLAGS.data, name, seed, folder, more) for seed in range(FLAGS.seeds) for name in names]
  failed = []
  for run in runs:
    if run.test is None:
      print(f"+ {run.name}: {run.parameters:,} parameters", flush=True)
      code = run.train(*([f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []))
      if code in STOPPED:
        sys.exit("stopped; the same command resumes")
      failed += [run.name] if code else []
      write(runs, folder)
  write_json(FLAGS.output, write(runs, folder))
  if failed:
    sys.exit(f"failed: {', '.join(failed)}; the same command runs them again")


def define_flags():
  """Define the script's flags; a function, as tests and other scripts import this file."""
  flags.DEFINE_enum("data", "digits", [*BASES], "Data set, with its reduced model; cifar10 has the paper's.")
  flags.DEFINE_list("variants", [*VARIANTS], "Variants to run.")
  flags.register_validator("variants", lambda names: {*names} <= {*VARIANTS}, f"any of {', '.join(VARIANTS)}")
  flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)
  flags.DEFINE_string("runs", None, "Folder of the runs and the results; runs/ablations_DATA if not given.")
  flags.DEFINE_integer("steps", None, "Training steps; those of the recipe if not given.", lower_bound=1)
  flags.DEFINE_integer("validate_every", None, "Steps between validations.", lower_bound=1)
  flags.DEFINE_integer("eval_images", None, "Test images at the end.", lower_bound=1)
  flags.DEFINE_string("data_dir", None, "As of bin/train.")
  flags.DEFINE_string("output", None, "JSON file of the table and the curves to write.")


if __name__ == "__main__":
  define_flags()
  app.run(main)

"""Ablations: widths at equal parameters, runs as flag files, the table's means and errors, and the whole command."""

import json
import math
import signal
import subprocess
import sys

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.config import CONFIGS, Recipe
from flowpp_tf.reproduction import BASES, VARIANTS, estimate, matched_width, settings_of
from flowpp_tf.reproduction import runs as runs_module
from flowpp_tf.reproduction.plot import limits_of, plot_ablation
from flowpp_tf.reproduction.runs import plan
from flowpp_tf.reproduction.table import curves, markdown, readings, summary
from flowpp_tf.reproduction.variants import parameters_of
from support.programs import call, finish, start, wait_for

TINY = [
  "--data=digits",
  "--seeds=1",
  "--steps=4",
  "--validate_every=2",
  "--eval_images=4",
  "--variants=uniform_dequantization",  # the smallest
  "--output=out",
]


def test_widths_are_those_of_the_paper():
  full = fpp.get_config("cifar10")
  for variant in VARIANTS:
    changes, name = VARIANTS[variant].changes, f"cifar10_{variant}"
    if name in CONFIGS:
      expected = CONFIGS[name]
      assert Recipe(full).replace(**changes, **matched_width(full, changes)).config == expected, variant


@pytest.mark.parametrize("data", [data for data in BASES if data != "cifar10"])
def test_reduced_models_have_equal_parameters_and_attention_to_leave_out(data):
  config, settings = settings_of(data, "full")
  full = Recipe.load(config).replace(**settings)
  assert full.config.attention and full.settings["num_samples"] == 1
  counts = {variant: parameters_of(*settings_of(data, variant)) for variant in VARIANTS}
  for variant, count in counts.items():
    assert abs(count / counts["full"] - 1) < (0.02 if variant == "uniform_dequantization" else 0.01), (variant, counts)


def test_the_paper_s_runs_have_its_settings(tmp_path):
  runs = plan("cifar10", [*VARIANTS], 2, tmp_path)
  assert [run.name for run in runs[:6]] == [*(f"{variant}_seed0" for variant in VARIANTS), "full_seed1"]
  for run in runs:
    flags = run.flags()
    assert {"--epochs=400.0", "--schedule=linear:3e-4@2000,hold", f"--seed={run.seed}"} <= {*flags}
    assert not [flag for flag in flags if flag.startswith("--steps=")]


def test_estimates_are_means_with_the_error_of_the_mean():
  values = np.random.RandomState(0).randn(5)
  found = estimate(values)
  assert found.mean == pytest.approx(values.mean())
  assert found.standard_error == pytest.approx(math.sqrt(((values - values.mean()) ** 2).sum() / 4 / 5))
  assert estimate([2.0]) == (2.0, None, 1) and str(estimate([2.0])) == "2.000" and not str(estimate([]))


def fake_run(run, slope, seconds, test, done=True):
  """What a run of three validations leaves: validation 5 - slope * step, training 0.5 below."""
  run.workdir.mkdir(parents=True)
  rows = [
    {"step": s, "cpu_seconds": seconds * s, "val_bits_per_dim": 5 - slope * s, "bits_per_dim": 4.5 - slope * s}
    for s in (1, 2, 3)
  ]
  (run.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  if done:
    (run.folder / f"{run.name}.json").write_text(json.dumps({"test": test}))


def test_the_table_reads_one_run_at_equal_steps_and_at_equal_cpu_seconds(tmp_path):
  variants = ["full", "affine_coupling"]
  runs = plan("digits", variants, 2, tmp_path)
  fake_run(runs[0], 0.5, 2, 3.0)
  fake_run(runs[1], 0.4, 1, 3.2)
  fake_run(runs[2], 0.7, 2, 2.9)
  fake_run(runs[3], 0.4, 1, 3.0, done=False)
  found, budget = readings(runs)
  table = summary(found, budget, variants)
  full, affine = table["rows"]
  assert budget == 3 and (full["seeds"], affine["seeds"]) == (2, 1)
  assert full["test"]["mean"] == pytest.approx(2.95) and full["test"]["standard_error"] == pytest.approx(0.05)
  assert full["validation"]["mean"] == pytest.approx(np.mean([3.5, 2.9]))
  assert full["validation_at_cpu_seconds"]["mean"] == pytest.approx(np.mean([5 - 0.5 * 1.5, 5 - 0.7 * 1.5]))
  assert affine["test_less_full"]["mean"] == pytest.approx(0.2) and affine["gap"]["mean"] == pytest.approx(0.5)
  assert affine["paper_less_full"] == pytest.approx(0.035)
  text = markdown(table, "Ablations", left=1)
  assert "Incomplete: 1 run(s) are left" in text and "| affine coupling |" in text and "3.200 | 0.035 |" in text
  assert "at 3 CPU-seconds" in text and "Incomplete" not in markdown(table, "Ablations", left=0)


def test_curves_are_means_over_seeds_as_far_as_all_have_come(tmp_path):
  runs = plan("digits", ["full", "affine_coupling", "no_attention"], 2, tmp_path)
  fake_run(runs[0], 0.5, 2, 3.0)
  fake_run(runs[3], 0.25, 4, 3.0)
  fake_run(runs[1], 0.5, 2, 3.0, done=False)
  with (runs[3].workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4}\n{"step": 5')  # further than the other seed
  found = curves(runs, ["full", "affine_coupling", "no_attention"])
  assert [*found] == ["full", "affine_coupling"]
  assert found["full"] == dict(
    step=[1, 2, 3], cpu_seconds=[3, 6, 9], bits_per_dim=[4.125, 3.75, 3.375], val_bits_per_dim=[4.625, 4.25, 3.875]
  )


def test_a_validation_that_is_not_finite_does_not_end_the_others(tmp_path):
  """It is null in the metrics, as JSON has no NaN."""
  runs = plan("digits", ["full", "affine_coupling"], 1, tmp_path)
  for run in runs:
    fake_run(run, 0.5, 2, 3.0)
  metrics = runs[1].workdir / "metrics.jsonl"
  metrics.write_text(metrics.read_text().replace('"val_bits_per_dim": 3.5', '"val_bits_per_dim": null'))
  found, budget = readings(runs)
  assert budget == 6 and found[0].validation == 3.5 and math.isnan(found[1].validation)
  table = summary(found, budget, ["full", "affine_coupling"])
  assert table["rows"][0]["validation"]["mean"] == 3.5 and "| nan |" in markdown(table, "Ablations", left=0)
  of_validation = curves(runs, ["affine_coupling"])["affine_coupling"]["val_bits_per_dim"]
  np.testing.assert_array_equal(of_validation, [4.5, 4.0, math.nan])


def test_runs_on_other_data_are_not_compared(tmp_path):
  """As of the same command with another --data_dir, or of files that were replaced."""
  runs = plan("digits", ["full", "affine_coupling"], 1, tmp_path)
  for run, digest in zip(runs, ("0123456789ab", "ba9876543210")):
    fake_run(run, 0.5, 2, 3.0)
    metrics = run.workdir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"step"', f'"data": "{digest}", "step"'))
  assert readings(runs[:1])[1] == 6
  with pytest.raises(fpp.InputError, match="same data, got full_seed0 on data 0123.* and affine_coupling_seed0 on"):
    readings(runs)


def test_curves_that_are_not_finite_are_drawn(tmp_path):
  curve = {"step": [1, 2], "cpu_seconds": [1, 2], "val_bits_per_dim": [5, math.nan], "bits_per_dim": [math.nan] * 2}
  plot_ablation({"full": curve}, tmp_path / "curves.svg")
  assert b"rational" not in (tmp_path / "curves.svg").read_bytes()
  assert limits_of({"full": curve}) == pytest.approx((4.97, 5.05)) and limits_of({}) is None


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--variants=full,none"], "unknown variant 'none'; known: affine_coupling"),
    (["--variants=full,full"], "`variants` must be different names"),
    (["--steps=1", "--epochs=1"], "give the length of the run as --steps or as --epochs, one of them"),
    (["--seeds=0"], "seeds"),
    (["--data=imagenet"], "data"),
    (["--output=/dev/null/x"], "'/dev/null' is no folder in which files can be written"),
  ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(flags, message, tmp_path):
  result = call("reproduce", *flags, cwd=tmp_path)
  assert result.code == 2 and message in result.error and not [*tmp_path.iterdir()]


def test_runs_of_other_settings_are_not_taken_for_those_that_are_asked_for(tmp_path):
  run = plan("digits", ["full"], 1, tmp_path, {"steps": 7})[0]
  run.folder.mkdir()
  (run.folder / f"{run.name}.flags").write_text("\n".join(["# how", *run.flags()]))
  plan("digits", ["full"], 1, tmp_path, {"steps": 7, "data_dir": "elsewhere"})
  for data, more in (("digits", {"steps": 8}), ("photos", {"steps": 7}), ("digits", {"steps": 7, "eval_images": 3})):
    with pytest.raises(fpp.InputError, match="seed0.flags' has .* where this command has .*; give another --output"):
      plan(data, ["full"], 1, tmp_path, more)


RECORD = json.dumps({"test": {"bounds": [{"num_samples": 1, "bits_per_dim": 2.5}]}})
ENDS = {  # what the process of a run does
  "full_seed0": "pass",
  "full_seed1": "print('a reason'); sys.exit(1)",
  "full_seed2": "print('step 4', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
}


def test_a_run_is_complete_if_its_process_ended_well_and_a_failure_has_its_own_reason(tmp_path, monkeypatch):
  def start(run, cores):
    del cores
    run.workdir.mkdir(parents=True)
    (run.workdir / "evaluation.json").write_text(RECORD)  # as of `bin/evaluate` on a run that goes on
    with open(run.folder / f"{run.name}.log", "wb") as log:
      return subprocess.Popen([sys.executable, "-c", f"import os, signal, sys; {ENDS[run.name]}"], stdout=log)

  monkeypatch.setattr(runs_module.Run, "start", start)
  runs, tables = plan("digits", ["full"], 3, tmp_path), []
  failures = runs_module.complete(runs, 2, lambda: tables.append(1), lambda line: None)
  assert [run.test() for run in runs] == [2.5, None, None] and len(tables) == 3
  assert sorted(failures) == [
    "full_seed1 failed: a reason (exit code 1)",
    "full_seed2 failed: step 4 (killed by SIGKILL)",
  ]


def test_no_process_is_left_when_an_error_ends_the_command(tmp_path, monkeypatch):
  processes = []

  def start(run, cores):
    del run, cores
    if processes:
      raise OSError("no room")
    processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10**6)"]))
    return processes[0]

  monkeypatch.setattr(runs_module.Run, "start", start)
  with pytest.raises(OSError, match="no room"):
    runs_module.complete(plan("digits", ["full"], 2, tmp_path), 2, lambda: None, lambda line: None)
  assert processes[0].poll() is not None


@pytest.mark.slow
def test_the_command_is_stopped_resumed_and_leaves_table_and_plot(tmp_path):
  process = start("reproduce", *TINY, cwd=tmp_path)
  log = tmp_path / "out" / "runs" / "uniform_dequantization_seed0.log"
  wait_for(lambda: log.exists() and "tracing the first step" in log.read_text(), process)
  process.send_signal(signal.SIGTERM)
  assert "the same command resumes" in finish(process, code=3)
  result = call("reproduce", *TINY, cwd=tmp_path)
  assert result.code == 0, result.error
  table = json.loads((tmp_path / "out" / "table.json").read_text())
  assert [row["seeds"] for row in table["rows"]] == [1] and [run["steps"] for run in table["runs"]] == [4]
  assert "Incomplete" not in (tmp_path / "out" / "table.md").read_text()
  assert all((tmp_path / "out" / f"curves.{ending}").stat().st_size > 1000 for ending in ("png", "svg"))
  again = call("reproduce", *TINY, cwd=tmp_path)  # nothing is run
  assert again.code == 0 and "started" not in again.out

"""Ablations: widths at equal parameters, recipes, means and errors, a whole call; the entropy of sky16."""

import dataclasses
import json
import math
import signal
import sys

from absl import app
import mpmath
import numpy as np
import pytest

from ablations import BASES, VARIANTS, Run, cells, estimate, limits_of, matched_width, readings, recipe_of, summary
import flowpp_tf as fpp
from flowpp_tf.config import CONFIGS
from flowpp_tf.config.size import model_size
from flowpp_tf.data import sky
import sky16
from support import programs

SCRIPT = [str(programs.ROOT / "benchmarks" / "ablations.py")]
TINY = [
  "--data=digits",
  "--seeds=1",
  "--steps=4",
  "--validate_every=2",
  "--eval_images=4",
  "--variants=uniform_dequantization",  # the smallest
  "--runs=out",
  "--output=table.json",
]


def runs_of(data, variants, seeds, folder, **more):
  return [Run(data, variant, seed, folder, more) for seed in range(seeds) for variant in variants]


def test_widths_are_those_of_the_paper():
  full = fpp.get_config("cifar10")
  for variant in VARIANTS:
    changes, name = VARIANTS[variant].changes, f"cifar10_{variant}"
    if name in CONFIGS:
      expected = CONFIGS[name]
      assert dataclasses.replace(full, **changes, **matched_width(full, changes)) == expected, variant


@pytest.mark.parametrize("data", [data for data in BASES if data != "cifar10"])
def test_reduced_models_have_equal_parameters_and_attention_to_leave_out(data):
  full = recipe_of(data, "full")
  assert full.config.attention and full.settings["num_samples"] == 1
  counts = {variant: model_size(recipe_of(data, variant).config).parameters for variant in VARIANTS}
  for variant, count in counts.items():
    assert abs(count / counts["full"] - 1) < (0.02 if variant == "uniform_dequantization" else 0.01), (variant, counts)


def test_the_paper_s_runs_have_its_settings(tmp_path):
  for run in runs_of("cifar10", VARIANTS, 2, tmp_path):
    flags = run.flags.splitlines()
    assert {"--epochs=400.0", "--schedule=linear:3e-4@2000,hold", f"--seed={run.seed}"} <= {*flags}
    assert not [flag for flag in flags if flag.startswith("--steps=")]


def test_estimates_are_means_with_the_error_of_the_mean():
  values = np.random.RandomState(0).randn(5)
  found = estimate(values)
  assert found.mean == pytest.approx(values.mean())
  assert found.standard_error == pytest.approx(math.sqrt(((values - values.mean()) ** 2).sum() / 4 / 5))
  assert estimate([2.0]) == (2.0, None, 1) and str(estimate([2.0])) == "2.000" and not str(estimate([]))


def fake_run(run, slope, seconds, test):
  """What a complete run of three validations leaves: validation 5 - slope * step, training 0.5 below."""
  run.workdir.mkdir(parents=True)
  rows = [
    {"step": s, "cpu_seconds": seconds * s, "val_bits_per_dim": 5 - slope * s, "bits_per_dim": 4.5 - slope * s}
    for s in (1, 2, 3)
  ]
  (run.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  run.workdir.with_suffix(".json").write_text(json.dumps({"test": test}))


def test_the_table_reads_one_run_at_equal_steps_and_at_equal_cpu_seconds(tmp_path):
  variants = ["full", "affine_coupling"]
  runs = runs_of("digits", variants, 2, tmp_path)
  fake_run(runs[0], 0.5, 2, 3.0)
  fake_run(runs[1], 0.4, 1, 3.2)
  fake_run(runs[2], 0.7, 2, 2.9)
  assert [run.test for run in runs] == [3.0, 3.2, 2.9, None]
  table = summary(runs[:3], variants)
  full, affine = table["rows"]
  assert table["cpu_seconds"] == 3 and (full["seeds"], affine["seeds"]) == (2, 1)
  assert full["test"]["mean"] == pytest.approx(2.95) and full["test"]["standard_error"] == pytest.approx(0.05)
  assert full["validation"]["mean"] == pytest.approx(np.mean([3.5, 2.9]))
  assert full["validation_at_cpu_seconds"]["mean"] == pytest.approx(np.mean([5 - 0.5 * 1.5, 5 - 0.7 * 1.5]))
  assert affine["test_less_full"]["mean"] == pytest.approx(0.2) and affine["gap"]["mean"] == pytest.approx(0.5)
  assert affine["paper_less_full"] == pytest.approx(0.035)
  head, _, row = cells(table)
  assert row[0] == "affine coupling" and row[-2:] == ("3.200", "0.035") and "validation at 3 CPU-seconds" in head


def test_curves_are_means_over_seeds(tmp_path):
  variants = ["full", "affine_coupling", "no_attention"]
  full, _, _, other, _, _ = runs_of("digits", variants, 2, tmp_path)
  fake_run(full, 0.5, 2, 3.0)
  fake_run(other, 0.25, 4, 3.0)
  assert summary([full, other], variants)["curves"] == {
    "full": dict(
      step=[1, 2, 3], cpu_seconds=[3, 6, 9], bits_per_dim=[4.125, 3.75, 3.375], val_bits_per_dim=[4.625, 4.25, 3.875]
    )
  }


def test_a_validation_that_is_not_finite_does_not_end_the_others(tmp_path):
  """It is null in the metrics, as JSON has no NaN."""
  runs = runs_of("digits", ["full", "affine_coupling"], 1, tmp_path)
  for run in runs:
    fake_run(run, 0.5, 2, 3.0)
  metrics = runs[1].workdir / "metrics.jsonl"
  metrics.write_text(metrics.read_text().replace('"val_bits_per_dim": 3.5', '"val_bits_per_dim": null'))
  found, budget = readings(runs)
  assert budget == 6 and found[0]["validation"] == 3.5 and math.isnan(found[1]["validation"])
  table = summary(runs, ["full", "affine_coupling"])
  assert table["rows"][0]["validation"]["mean"] == 3.5 and "nan" in [*cells(table)][-1]
  np.testing.assert_array_equal(table["curves"]["affine_coupling"]["val_bits_per_dim"], [4.5, 4.0, math.nan])


def test_runs_on_other_data_are_not_compared(tmp_path):
  """As of the same command with another --data_dir, or of files that were replaced."""
  runs = runs_of("digits", ["full", "affine_coupling"], 1, tmp_path)
  for run, digest in zip(runs, ("0123456789ab", "ba9876543210")):
    fake_run(run, 0.5, 2, 3.0)
    metrics = run.workdir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"step"', f'"data": "{digest}", "step"'))
  assert readings(runs[:1])[1] == 6
  with pytest.raises(app.UsageError, match="same data, got full_seed0 on data 0123.* and affine_coupling_seed0 on"):
    readings(runs)


def test_curves_that_are_not_finite_have_limits():
  curve = {"step": [1, 2], "cpu_seconds": [1, 2], "val_bits_per_dim": [5, math.nan], "bits_per_dim": [math.nan] * 2}
  assert limits_of({"full": curve}) == pytest.approx((4.97, 5.05)) and limits_of({}) is None


def test_runs_of_other_settings_are_not_taken_for_those_that_are_asked_for(tmp_path):
  run = Run("digits", "full", 0, tmp_path, {"steps": 7})
  run.flagfile.write_text(run.flags)
  Run("digits", "full", 0, tmp_path, {"steps": 7})
  for data, more in (("digits", {"steps": 8}), ("photos", {"steps": 7}), ("digits", {"steps": 7, "eval_images": 3})):
    with pytest.raises(app.UsageError, match="seed0.flags is a run of other settings .*; give another --runs"):
      Run(data, "full", 0, tmp_path, more)


ENDS = {  # what the process of a run does
  "full_seed0": ("pass", 0, 2.5),
  "full_seed1": ("sys.exit(1)", 1, None),
  "full_seed2": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, None),
}


def test_a_run_is_complete_only_if_its_process_ended_well(tmp_path, monkeypatch):
  for run in runs_of("digits", ["full"], 3, tmp_path):
    ending, code, test = ENDS[run.name]
    run.workdir.mkdir()
    record = {"test": {"bounds": [{"num_samples": 1, "bits_per_dim": 2.5}]}}
    (run.workdir / "evaluation.json").write_text(json.dumps(record))  # as of `bin/evaluate` on a run that goes on
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "train").write_text(f"import os, signal, sys; {ending}")
    monkeypatch.setattr(sys.modules[Run.__module__], "ROOT", tmp_path)
    assert (run.train(), run.test) == (code, test)


@pytest.mark.slow
def test_the_script_is_stopped_resumed_and_leaves_a_table(tmp_path):
  process = programs.start([*SCRIPT, *TINY], cwd=tmp_path)
  programs.wait_for(lambda: (tmp_path / "out" / "uniform_dequantization_seed0" / "config.json").exists(), process)
  process.send_signal(signal.SIGTERM)
  assert "stopped; the same command resumes" in programs.finish(process, code=1)
  result = programs.run([*SCRIPT, *TINY], cwd=tmp_path)
  assert result.code == 0, result.error
  table = json.loads((tmp_path / "table.json").read_text())
  assert [row["seeds"] for row in table["rows"]] == [1] and [run["steps"] for run in table["runs"]] == [4]
  assert "1 of 1 runs" in (tmp_path / "out" / "table.md").read_text()
  again = programs.run([*SCRIPT, *TINY], cwd=tmp_path)  # nothing is run
  assert again.code == 0 and "uniform_dequantization_seed0" not in again.out


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags, message", [("--variants=full,none", "any of full, affine_coupling"), ("--data=imagenet", "--data")]
)
def test_wrong_flags_are_one_error_and_leave_no_run(flags, message, tmp_path):
  result = programs.run([*SCRIPT, flags], cwd=tmp_path)
  assert result.code == 1 and message in result.error and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("mean", [1.0, 37.5, 1200.0, 60_000.0])
def test_probabilities_sum_to_one_and_have_the_moments_of_the_noise(mean):
  first, p = sky16.probabilities(mean)
  values = first + np.arange(len(p))
  assert abs(p.sum() - 1) < 1e-10
  assert abs(p @ values - (sky.BIAS + mean)) < 1e-4
  variance = p @ (values - p @ values) ** 2
  assert abs(variance / (mean + sky.READ_NOISE**2 + 1 / 12) - 1) < 1e-6


def test_a_probability_is_the_sum_that_defines_it():
  mean, value = 20.5, sky.BIAS + 17
  first, p = sky16.probabilities(mean)
  normal = lambda x: mpmath.ncdf(mpmath.mpf(x) / sky.READ_NOISE)
  poisson = lambda k: mpmath.exp(-mean) * mpmath.mpf(mean) ** k / mpmath.factorial(k)
  rounded = lambda j: normal(j + 0.5) - normal(j - 0.5)
  expected = mpmath.fsum(poisson(k) * rounded(value - sky.BIAS - k) for k in range(100))
  assert abs(p[value - first] / float(expected) - 1) < 1e-9


def test_the_entropy_between_the_tabled_means_is_the_sum_itself():
  means = np.array([5.3, 812.0, 43_210.0])
  exact = [-np.sum(p[p > 0] * np.log2(p[p > 0])) for p in (sky16.probabilities(mean)[1] for mean in means)]
  np.testing.assert_allclose(sky16.noise_entropy(means), exact, rtol=0, atol=1e-5)
  # Of many photons it is that of a normal distribution.
  normal = 0.5 * np.log2(2 * np.pi * np.e * (means[-1] + sky.READ_NOISE**2 + 1 / 12))
  assert abs(exact[-1] - normal) < 1e-3


def test_the_surprise_of_drawn_noise_is_the_entropy():
  rng, mean, count = np.random.default_rng(0), 300.0, 40_000
  draws = sky.BIAS + rng.poisson(mean, count) + np.rint(rng.normal(0, sky.READ_NOISE, count)).astype(int)
  first, p = sky16.probabilities(mean)
  bits = -np.log2(p[draws - first])
  assert abs(bits.mean() - sky16.noise_entropy(np.array(mean))) < 5 * bits.std() / np.sqrt(count)

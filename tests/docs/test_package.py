"""What people install: the wheel's files, recipes, and models in one call."""

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import sklearn.datasets

import flowpp_tf as fpp
from flowpp_tf import data
from support.marks import exhaustive
from support.programs import ROOT, call
from support.runs import TINY_RUN

SMALL = dict(
  structure="columns:1",
  dequant_structure="columns:1",
  filters=4,
  blocks=1,
  components=2,
  heads=1,
  dequant_filters=4,
  context_channels=4,
  verbose=False,
  tensorboard=(),
  init_batch_size=16,
  batch_size=16,
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The names of the files in the wheel, and its metadata."""
  folder = tmp_path_factory.mktemp("wheel")
  source = folder / "source"  # setuptools writes to where it builds from
  for name in ("flowpp_tf", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for path in ROOT.glob("*"):
    if path.is_file():
      shutil.copy(path, source)
  # --no-build-isolation: nothing is downloaded.
  subprocess.run(
    [
      sys.executable,
      "-m",
      "pip",
      "wheel",
      "--quiet",
      "--no-deps",
      "--no-build-isolation",
      f"--wheel-dir={folder}",
      str(source),
    ],
    check=True,
    cwd=folder,
    capture_output=True,
  )
  (path,) = folder.glob("*.whl")
  with zipfile.ZipFile(path) as archive:
    metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
    return set(archive.namelist()), archive.read(metadata).decode()


def test_the_wheel_has_recipes_presets_types_and_licence(wheel):
  names, metadata = wheel
  for path in ROOT.glob("configs/*.flags"):
    assert f"flowpp_tf/configs/{path.name}" in names
  for path in (ROOT / "flowpp_tf").rglob("*"):
    if path.is_file() and path.suffix != ".pyc":
      assert path.relative_to(ROOT).as_posix() in names
  assert any(name.endswith("licenses/LICENSE") for name in names) and any(name.endswith("NOTICE") for name in names)
  assert not any(name.startswith(("tests/", "docs/", "build/")) for name in names)
  needed = re.findall(r"^Requires-Dist: (\S+?)[<>=]([^;\n]*)$", metadata, re.MULTILINE)
  assert "pytest" not in dict(needed) and "License-Expression: Apache-2.0" in metadata or "License: Apache" in metadata


def test_every_module_imports_what_is_required_only():
  """Modules import nothing at their top that only an extra installs, but for the modules of that extra."""
  extras = {"gradio": "demo/page.py", "constriction": "compression/", "imagecodecs": "evaluation/codecs.py"}
  for path in (ROOT / "flowpp_tf").rglob("*.py"):
    for node in ast.parse(path.read_text()).body:
      names = (
        [alias.name for alias in node.names]
        if isinstance(node, ast.Import)
        else ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
      )
      for name in names:
        top = name.partition(".")[0]
        assert top != "pytest" and (top not in extras or extras[top] in path.as_posix()), (path, name)


# --- Recipes --------------------------------------------------------------------------------------


def test_every_config_has_a_recipe_and_every_recipe_a_config():
  assert fpp.recipes() == sorted(fpp.CONFIGS)
  for name in fpp.recipes():
    assert f"--config={name}\n" in (ROOT / "configs" / f"{name}.flags").read_text()
    recipe = fpp.Recipe.load(name)
    assert recipe.base == fpp.get_config(name) and recipe.settings["dataset"]
  for name in ("../setup", "nothing"):
    with pytest.raises(fpp.InputError, match="unknown config"):
      fpp.Recipe.load(name)


def replaced(recipe, **given):
  """Names of the settings that are others, or gone, where these are given."""
  settings = recipe.replace(**given).settings
  assert settings.items() >= given.items()
  return {name for name, value in recipe.settings.items() if settings.get(name) != value}


@pytest.mark.parametrize(
  "given, gone",
  [
    ({"epochs": 3.0}, {"steps"}),
    ({"steps": 3}, {"steps"}),
    ({"learning_rate": 1e-3}, {"schedule"}),
    ({"warmup_steps": 5}, {"schedule"}),
    ({"batch_size": 8}, {"batch_size"}),
    ({}, set()),
  ],
)
def test_a_setting_replaces_those_of_the_recipe_that_say_the_same(given, gone):
  assert replaced(fpp.Recipe.load("cifar10"), **given) == gone
  assert replaced(fpp.Recipe.load("photos_crops"), dtype="float32") == {"precision"}


def test_a_schedule_in_pieces_replaces_rate_and_warm_up():
  recipe = fpp.Recipe.load("digits")
  assert replaced(recipe, schedule="linear:1e-3@10,hold") == {"learning_rate", "warmup_steps"}
  assert replaced(recipe, schedule="cosine") == set()


def test_a_recipe_is_resolved_for_a_data_set_and_stays_as_it_is():
  digits, recipe = data.load_dataset("digits"), fpp.Recipe.load("digits")
  before = dict(recipe.settings)
  config, training = recipe.replace(epochs=2.0, batch_size=100, precision="bfloat16").resolve(digits)
  assert config == dataclasses.replace(fpp.get_config("digits"), dtype="mixed_bfloat16")
  assert training.steps == round(2 * 1527 / 100) and training.ema_decay == 0.995 and recipe.settings == before
  with pytest.raises(TypeError):
    recipe.settings["steps"] = 1


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(batch_sise=1), "unknown setting 'batch_sise'; did you mean batch_size"),
    (dict(steps=1, epochs=1.0), "give the length of the run as --steps or as --epochs, one of them"),
    (dict(precision="float32", dtype="float32"), "give the precision as --precision or as --dtype, one of them"),
    (dict(precision="double"), "`precision` must be one of float32, bfloat16, float16, got 'double'"),
    (dict(steps=0), "`steps` must be at least 1, got 0"),
    (dict(coupling="spline"), "`coupling` must be one of mixture_logistic, affine, got 'spline'"),
  ],
)
def test_a_wrong_setting_is_one_line(settings, message):
  with pytest.raises(fpp.InputError, match=f"^{re.escape(message)}"):
    fpp.Recipe.load("digits").replace(**settings).resolve(data.load_dataset("digits"))


def test_configs_recipes_and_flags_import_no_tensorflow():
  code = (
    "import sys, flowpp_tf as fpp\n"
    "from flowpp_tf.config import FlowPlusPlusConfig, RunSettings, TrainingConfig\n"
    "from flowpp_tf.programs import data_flags, run\n"
    "fpp.Recipe.load('digits').replace(steps=3, coupling='affine').config, fpp.recipes(), fpp.CONFIGS\n"
    "run.define_settings_flags(FlowPlusPlusConfig, 'Model')\n"
    "run.define_settings_flags(TrainingConfig, 'Training')\n"
    "data_flags.define_data_flags('digits')\n"
    "print({'tensorflow', 'keras', 'tensorflow_probability', 'PIL'} & {*sys.modules})"
  )
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
def test_a_config_by_name_is_its_flag_file(tmp_path):
  """The run of `--config=digits` is that of the flag file, and flags replace the recipe's."""
  more = [*TINY_RUN[1:], "--steps=1", "--dequantization=uniform", "--eval_images=2"]
  for workdir, which in (("a", "--config=digits"), ("b", f"--flagfile={ROOT / 'configs' / 'digits.flags'}")):
    result = call("train", which, *more, f"--workdir={workdir}", cwd=tmp_path)
    assert result.code == 0, result.error
  a, b = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
  assert a == b and a["training"]["ema_decay"] == 0.995 and a["training"]["steps"] == 1


@pytest.mark.slow
def test_a_quick_run_says_so_and_has_a_directory_of_its_own(tmp_path):
  result = call("train", *TINY_RUN, "--quick", "--steps=2", cwd=tmp_path)
  assert result.code == 0 and result.out.startswith("--quick: 2 steps")
  assert (tmp_path / "runs" / "digits_quick" / "samples.png").exists()


# --- In one call ----------------------------------------------------------------------------------


def test_an_array_is_trained_saved_resumed_and_loaded(tmp_path, capsys):
  images = sklearn.datasets.load_digits().images.astype(np.uint8)
  model = fpp.train(images, "digits", tmp_path / "run", steps=2, **SMALL)
  assert model.config.image_shape == (8, 8, 1) and capsys.readouterr().out == ""
  again = fpp.load(tmp_path / "run")
  for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
  fpp.train(images, "digits", tmp_path / "run", steps=2, **{**SMALL, "verbose": True})
  assert "resumed at step 2 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_labels_make_a_model_of_classes_and_other_shapes_another_config():
  rng = np.random.RandomState(0)
  images, labels = rng.randint(0, 17, [60, 4, 6, 1]), np.arange(60) % 3
  model = fpp.train(images, "digits", labels=labels, steps=1, **SMALL)
  assert model.config.num_classes == 3 and model.config.image_shape == (4, 6, 1)
  assert model.sample(3, labels=[0, 1, 2], seed=0).shape == (3, 4, 6, 1)


def test_data_and_a_recipe_by_name():
  assert fpp.train("digits", "digits", steps=1, **SMALL).config.levels == 17


@pytest.mark.slow
def test_data_by_name_and_configs_without_a_recipe():
  config = fpp.get_config("digits")
  with pytest.raises(fpp.InputError, match="`steps` must say how long to train"):
    fpp.train("digits", config, verbose=False)
  small = {name: value for name, value in SMALL.items() if name not in ("verbose",)}
  assert fpp.train("digits", config, steps=1, verbose=False, **small).config.filters == 4


@pytest.mark.parametrize(
  "images, settings, message",
  [
    ("digits", dict(stepz=1), "unknown setting 'stepz'; did you mean steps"),
    ("digit", {}, "unknown dataset 'digit'"),
    (np.zeros([30, 8, 8]) + 0.5, {}, "must be integers in 0 .. 16"),
    (np.full([30, 8, 8], 99), {}, "must lie in 0 .. 16"),
    (np.zeros([1, 8, 8], int), {}, "cannot be taken from the 1"),
    (np.zeros([30, 8, 8], int), dict(labels=np.zeros(3, int)), "`labels` must be one integer"),
  ],
)
def test_bad_calls_are_one_line(images, settings, message):
  with pytest.raises(fpp.InputError, match=message):
    fpp.train(images, "digits", **{"steps": 1, "verbose": False, **settings})


@pytest.mark.slow
def test_a_data_set_is_taken_as_it_is(tmp_path):
  dataset = data.load_dataset("digits")
  model = fpp.train(dataset, "digits", tmp_path, steps=1, **SMALL)
  assert json.loads((tmp_path / "config.json").read_text())["training"]["fingerprint"] == dataset.fingerprint()
  assert model.bits_per_dim(dataset.test[:2], seed=0).shape == (2,)


# `.ci/docs` runs all of them.
TUTORIALS = ("likelihood", *map(exhaustive, ("compression", "first_flow", "photographs", "couplings")))


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_run(name, capsys, monkeypatch):
  import matplotlib

  matplotlib.use("agg")
  from matplotlib import pyplot as plt

  monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
  path = ROOT / "docs" / "tutorials" / f"{name}.py"
  exec(compile(path.read_text(), str(path), "exec"), {"__name__": "tutorial"})
  out = capsys.readouterr().out
  expected = {
    "first_flow": "every pixel comes back: True",
    "photographs": "noise: ",
    "couplings": "batch shape: (3,)",
    "compression": "refused: ",
    "likelihood": "blank",
  }
  assert expected[name] in out

"""What people install: the wheel's files, recipes, and models in one call."""

import ast
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from unittest import mock
import zipfile

import numpy as np
import packaging.requirements
import pytest
import sklearn.datasets
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.core.registry import COUPLINGS
from support.comparing import assert_same
from support.marks import exhaustive
from support.programs import ROOT, call, named_extras, run
from support.refusing import refuses
from support.runs import TINY_MODEL, TINY_RUN

SMALL = dict(TINY_MODEL, heads=1, verbose=False, tensorboard=(), init_batch_size=16, batch_size=16)


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
  flags = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
  subprocess.run(
    [sys.executable, "-m", "pip", "wheel", *flags, str(source)], check=True, cwd=folder, capture_output=True
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
  assert "pytest" not in of_extra(metadata) and "\nLicense-Expression: Apache-2.0\n" in metadata


def of_extra(metadata, extra=""):
  """The requirements of an extra, or of none, by name."""
  found = {}
  for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE):
    requirement = packaging.requirements.Requirement(line)
    base = requirement.marker is None
    if base if not extra else not base and requirement.marker.evaluate({"extra": extra}):
      found[requirement.name.lower()] = requirement.specifier
  return found


def requirements():
  """Those of requirements.txt, by name."""
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  found = [packaging.requirements.Requirement(line) for line in lines if line and not line.startswith("#")]
  return {requirement.name.lower(): requirement.specifier for requirement in found}


def test_requirements_are_the_dependencies_and_the_extras_of_training(wheel):
  """And each package that the library imports by `import_extra` is installed by the extra that it names there."""
  metadata = wheel[1]
  whole = of_extra(metadata) | of_extra(metadata, "data") | of_extra(metadata, "train")
  assert requirements() == whole
  on_the_index = {"sklearn": "scikit-learn", "skimage": "scikit-image"}  # others differ in their dashes only
  for package, extra in named_extras():
    name = on_the_index.get(package, package).replace("_", "-")
    installed, required = ([key.replace("_", "-") for key in of_extra(metadata, of)] for of in (extra, ""))
    assert name in installed and name not in required, (package, extra)
  assert of_extra(metadata, "plots").items() <= of_extra(metadata, "train").items()


def test_every_module_imports_what_is_required_only():
  """Modules import nothing at their top that only an extra installs, but for the modules of the page."""
  page = ("demo/page.py", "demo/calls.py")
  of_extras = {package for package, _ in named_extras()}
  for path in (ROOT / "flowpp_tf").rglob("*.py"):
    for node in ast.parse(path.read_text()).body:
      imported = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []
      for name in {getattr(node, "module", None) or alias.name for alias in imported}:
        top = name.partition(".")[0]
        allowed = top not in of_extras or top == "gradio" and path.as_posix().endswith(page)
        assert top != "pytest" and allowed, (path, name)


# --- Recipes --------------------------------------------------------------------------------------


def test_an_unknown_name_is_an_attribute_error():
  assert not hasattr(fpp, "no_such_name")


def test_every_config_has_a_recipe_and_every_recipe_a_config():
  assert fpp.recipes() == sorted(fpp.CONFIGS)
  for name in fpp.recipes():
    assert f"--config={name}\n" in (ROOT / "configs" / f"{name}.flags").read_text()
    recipe = fpp.Recipe.load(name)
    assert recipe.base == fpp.get_config(name) and recipe.settings["dataset"]
  for name in ("../setup", "nothing"):
    refuses("unknown config", fpp.Recipe.load, name)


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
    (dict(coupling="spline"), f"`coupling` must be one of {', '.join(COUPLINGS)} (--import="),
    (dict(image_shape=(8, 8, 1.0)), "`image_shape` must be a sequence of integers, got (8, 8, 1.0)"),
    (dict(epochs=-1), "`epochs` must be positive, got -1"),
    (dict(epochs=float("nan")), "`epochs` must be a finite number or None, got nan"),
  ],
)
def test_a_wrong_setting_is_one_line(settings, message):
  with pytest.raises(fpp.InputError, match=f"^{re.escape(message)}"):
    fpp.Recipe.load("digits").replace(**settings).resolve(data.load_dataset("digits"))


def test_configs_recipes_and_flags_import_no_tensorflow():
  code = (
    "import sys, flowpp_tf as fpp\n"
    "from flowpp_tf.config import FlowPlusPlusConfig, RunSettings, TrainingConfig\n"
    "from flowpp_tf.programs.command import define_flags, options_of\n"
    "fpp.Recipe.load('digits').replace(steps=3, coupling='affine').config, fpp.recipes(), fpp.CONFIGS\n"
    "define_flags(options_of('train'))\n"
    "print({'tensorflow', 'keras', 'tensorflow_probability', 'PIL'} & {*sys.modules})"
  )
  assert run(["-c", code], cwd=ROOT).out == "set()\n"


@pytest.mark.slow
def test_a_config_by_name_is_its_flag_file(tmp_path):
  """The run of `--config=digits` is that of the flag file, and flags replace the recipe's."""
  more = [*TINY_RUN[1:], "--steps=1", "--dequantization=uniform", "--eval_images=2"]
  for workdir, which in (("a", "--config=digits"), ("b", f"--flagfile={ROOT / 'configs' / 'digits.flags'}")):
    call("train", which, *more, f"--workdir={workdir}", cwd=tmp_path).ok()
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
  assert_same(again.get_weights(), model.get_weights())
  fpp.train(images, "digits", tmp_path / "run", steps=2, **{**SMALL, "verbose": True})
  assert "resumed at step 2 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_labels_make_a_model_of_classes_and_other_shapes_another_config():
  rng = np.random.RandomState(0)
  images, labels = rng.randint(0, 17, [60, 4, 6, 1]), np.arange(60) % 3
  model = fpp.train(images, "digits", labels=labels, steps=1, **SMALL)
  assert model.config.num_classes == 3 and model.config.image_shape == (4, 6, 1)
  assert model.sample(3, labels=[0, 1, 2], seed=0).shape == (3, 4, 6, 1)


def test_data_and_a_recipe_by_name(tmp_path):
  settings = {**SMALL, "schedule": "linear:1e-3@4,hold"}
  assert fpp.train("digits", "digits", tmp_path, steps=2, data_dir="folder", **settings).config.levels == 17
  # So that bin/evaluate finds the data.
  recorded = json.loads((tmp_path / "config.json").read_text())["training"]
  assert recorded["data_dir"] == os.path.abspath("folder") and recorded["crops"] is False
  row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert row["step"] == 2 and row["learning_rate"] == pytest.approx(5e-4)  # of that step: the next has 7.5e-4


@pytest.mark.slow
def test_data_by_name_and_configs_without_a_recipe():
  config = fpp.get_config("digits")
  refuses("`steps` must say how long to train", fpp.train, "digits", config, verbose=False)
  small = {name: value for name, value in SMALL.items() if name not in ("verbose",)}
  assert fpp.train("digits", config, steps=1, verbose=False, **small).config.filters == 4


@pytest.fixture
def train_nothing(monkeypatch):
  """`fpp.train` up to where it trains: it returns the config."""
  run_training = mock.Mock(side_effect=InterruptedError)
  monkeypatch.setattr("flowpp_tf.training.train_model.run_training", run_training)

  def train(*arguments, **settings):
    with pytest.raises(InterruptedError):
      fpp.train(*arguments, steps=1, **settings)
    return run_training.call_args.args[0]

  return train


def test_a_line_says_what_is_of_the_data_in_place_of_the_config(train_nothing, capsys):
  images = np.zeros([60, 28, 28], int)
  config = train_nothing(images, "digits")
  assert config.image_shape == (28, 28, 1)
  line = "config digits: from the data `image_shape` (28, 28, 1) in place of (8, 8, 1); all else from the config, "
  assert capsys.readouterr().out == f"{line}such as `levels` 17\n"

  config = train_nothing(images[:, :8, :8], fpp.get_config("digits"), labels=np.arange(60) % 3)
  assert config.num_classes == 3
  assert capsys.readouterr().out.startswith("config: from the data `num_classes` 3 in place of 0; all else ")

  assert train_nothing(images, "digits", image_shape=(28, 28, 1)).image_shape == (28, 28, 1)
  train_nothing(images[:, :8, :8], "digits")
  train_nothing(images[:, :8, :8], "digits", labels=np.arange(60) % 3, num_classes=5)
  train_nothing("digits", "digits_by_class")
  train_nothing(images, "digits", verbose=False)
  assert capsys.readouterr().out == ""


IMAGES = np.zeros([60, 8, 8], int)


@pytest.mark.parametrize(
  "images, settings, message",
  [
    ("digits", dict(stepz=1), "unknown setting 'stepz'; did you mean steps"),
    (np.zeros([1, 8, 8], int), {}, "cannot be taken from the 1"),
    (np.zeros([30, 8, 8], int), dict(labels=np.zeros(3, int)), "`labels` must be one integer"),
    (tf.data.Dataset.range(3), {}, "`images` must hold real numbers, got a `_RangeDataset`"),
    (["a.png", "b.png"], {}, "`images` must hold real numbers, got .'a.png', 'b.png'."),
    (pathlib.Path("photos"), {}, "`images` must hold real numbers, got PosixPath"),
    (IMAGES[0], {}, "`images` must be of shape .*, got .8, 8"),
    (IMAGES, dict(labels=["cat"] * 60), "`labels` must hold real numbers, got a `list`"),
    (IMAGES, dict(labels=np.append(np.zeros(59, int), 10**8)), "`labels` must lie in .* to 100000000"),
    ("digits", dict(labels=np.zeros(60, int)), "`labels` must be None for a data set"),
    (IMAGES, dict(image_shape=(4, 4, 1)), "`image_shape` is .4, 4, 1., but the data have .8, 8, 1"),
    (IMAGES, dict(labels=np.arange(60) % 3, num_classes=2), "`num_classes` is 2, but the data have 3"),
    (IMAGES, dict(workdir=b"runs"), "`workdir` must be a path or None, got b'runs'"),
    ("folder:nowhere", dict(init_from="photos"), "the weights of `init_from` 'photos' do not fit the model: "),
    (IMAGES, dict(bits=3), "`bits` must be None, as `images` is not the name of a data set"),
    (IMAGES, dict(dataset="photos"), "`dataset` is a setting of `bin/train`"),
    ("digits", dict(config="photos", crops=True), "`crops` are for photos, elpv, sky16 and folders"),
  ],
)
def test_bad_calls_are_one_line(images, settings, message):
  with pytest.raises(fpp.InputError, match=message) as caught:
    fpp.train(images, **{"config": "digits", "steps": 1, "verbose": False, **settings})
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [3, None, True, b"runs", ["runs"]])
def test_a_run_is_loaded_from_a_path(path):
  refuses("^`path` must be a path, got ", fpp.load, path)


@pytest.mark.slow
def test_a_data_set_is_taken_as_it_is(tmp_path):
  dataset = data.load_dataset("digits")
  model = fpp.train(dataset, "digits", tmp_path, steps=1, **SMALL)
  assert json.loads((tmp_path / "config.json").read_text())["training"]["fingerprint"] == dataset.fingerprint()
  assert model.bits_per_dim(dataset.test[:2], seed=0).shape == (2,)


# `.ci/docs` runs all of them.
TUTORIALS = ("likelihood", *map(exhaustive, ("first_flow", "photographs", "couplings", "fields")))


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
    "likelihood": "two columns",
    "fields": "by less than 0.01 nats: True",
  }
  assert expected[name] in out


def test_actions_of_the_workflows_are_pinned_by_the_hash_of_a_commit():
  """A tag can be moved to other code; the version stands behind the hash for those who read it."""
  workflows = [*(ROOT / ".github" / "workflows").glob("*.yml")]
  uses = [line.strip() for path in workflows for line in path.read_text().splitlines() if "uses:" in line]
  assert len(workflows) == 4 and len(uses) > 6
  for line in uses:
    assert re.fullmatch(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_lower_bounds_are_at_versions_without_known_holes():
  """And the environment of these tests lies within our bounds; those of .ci/tested.txt are for CI only."""
  for name, holes in {"keras": ["3.12.3", "3.13.2", "3.14.1", "3.15.0"], "pillow": ["12.2.0"]}.items():
    assert not [*requirements()[name].filter(holes)]
  distributions = importlib.metadata.packages_distributions()  # that of TFP may be its nightly build
  for name, bounds in requirements().items():
    (installed, *_) = distributions.get(name.replace("-", "_"), [name])
    assert bounds.contains(importlib.metadata.version(installed), prereleases=True), (name, bounds)

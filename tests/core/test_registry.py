"""Couplings, data sets and configs from outside of the package."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.config.size import model_size
from flowpp_tf.core import registry
from support.models import MINIMAL, small_config, small_images
from support.programs import call, refusal
from support.refusing import refuses
from support.runs import TINY_RUN

SHIFT = fpp.bijectors.CouplingKind(lambda components: 1, lambda parameters, components: tfp.bijectors.Shift(parameters))
# What a user writes; the name of the module differs in each test, as a process imports one only once.
MODULE = """
import numpy as np
import tensorflow_probability as tfp
import flowpp_tf as fpp
from flowpp_tf.data import ImageDataset

images = np.random.RandomState(0).randint(0, 17, [60, 8, 8, 1]).astype(np.uint8)
kind = fpp.bijectors.CouplingKind(lambda components: 1, lambda p, components: tfp.bijectors.Shift(p))
fpp.register_coupling("shift", kind)
fpp.register_dataset("noise", lambda: ImageDataset("noise", 17, images[:40], images[40:50], images[50:]))
fpp.register_config("mine", fpp.Recipe.load("digits").replace(coupling="shift", dataset="noise", filters=8))
"""


def test_a_registered_coupling_is_one_of_a_model():
  fpp.register_coupling("shift", SHIFT)
  assert fpp.bijectors.num_parameters("shift", 8) == 1
  config = small_config(coupling="shift")
  model = fpp.FlowPlusPlus(config)
  images = small_images(4, config)
  assert np.isfinite(model.initialize(images, seed=0)).all() and model.count_params() == model_size(config).parameters
  np.testing.assert_array_equal(model.decode(model.encode(images)), images)


def test_a_registered_data_set_has_the_options_of_its_function():
  images = small_images(12)

  def half(labels=False, image_shape=None):
    assert image_shape is None
    dataset = data.ImageDataset("half", 256, images[:6], images[6:9], images[9:])
    classes = {split: np.zeros(len(dataset.split(split)), int) for split in data.SPLITS}
    return dataclasses.replace(dataset, labels=classes, classes=("one",)) if labels else dataset

  fpp.register_dataset("half", half)
  assert data.load_dataset("half", labels=True).num_classes == 1 and not data.load_dataset("half").num_classes
  with pytest.raises(data.InputError, match="`crops` are for photos, elpv, sky16 and folders; the data set is 'half'"):
    data.load_dataset("half", crops=True)
  fpp.register_dataset("nothing", lambda: images)
  refuses("data set 'nothing' must be an `ImageDataset`, got a `nd", data.load_dataset, "nothing")


def test_a_registered_recipe_is_a_config():
  recipe = fpp.Recipe.load("digits").replace(filters=16, steps=50)
  fpp.register_config("mine", recipe)
  assert fpp.get_config("mine") == recipe.config and fpp.Recipe.load("mine") is recipe
  assert fpp.recipes() == sorted(fpp.CONFIGS) and "mine" in fpp.recipes()


@pytest.mark.parametrize(
  "register, name, value",
  [
    (fpp.register_coupling, "affine", SHIFT),
    (fpp.register_dataset, "digits", lambda: None),
    (fpp.register_config, "digits", fpp.Recipe(MINIMAL)),
  ],
)
def test_a_name_that_exists_is_refused(register, name, value):
  for taken in (name, "mine"):
    if taken == "mine":
      register(taken, value)
    refuses(f"`name` must be new: the .* '{taken}' exists already", register, taken, value)
  for wrong in ("", "a b", "a/b", "a:b", "-a", "folder:cats"):
    refuses("`name` must be letters, digits", register, wrong, value)


def test_a_function_with_other_parameters_is_refused():
  with pytest.raises(fpp.InputError, match="`function` must have parameters of name, data_dir, .*, got colour"):
    fpp.register_dataset("mine", lambda colour: None)
  refuses("`function` must have a signature, got <class 'dict'>", fpp.register_dataset, "mine", dict)


@pytest.mark.parametrize(
  "use, message",
  [
    (lambda: fpp.get_config("mine"), "unknown config 'mine'; "),
    (lambda: data.load_dataset("mine"), "unknown dataset 'mine'; "),
    (lambda: small_config(coupling="mine"), "`coupling` must be one of mixture_logistic, "),
  ],
)
def test_an_unknown_name_says_how_others_are_registered(use, message):
  with pytest.raises(fpp.InputError) as caught:
    use()
  assert str(caught.value).startswith(message)
  assert "'mine'" in str(caught.value) and "--import=MODULE" in str(caught.value)


def test_programs_import_what_registers(tmp_path):
  (tmp_path / "registers_all.py").write_text(MODULE)
  ours = "--import=registers_all"
  train = ["train", *TINY_RUN, "--config=mine", "--steps=1", "--workdir=run"]
  result = call(*train, ours, cwd=tmp_path)
  assert result.code == 0 and "data: noise, 40 / 10 / 10 images of 8x8x1" in result.out, result.error
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert (config["model"]["coupling"], config["training"]["dataset"]) == ("shift", "noise")
  evaluate = ["evaluate", "--workdir=run", "--num_samples=1", "--limit=2"]
  assert call(*evaluate, ours, cwd=tmp_path).code == 0
  for table in (registry.COUPLINGS, registry.DATASETS, fpp.CONFIGS):  # as in a process of its own
    for name in ("shift", "noise", "mine"):
      table.pop(name, None)
  assert "(--import=MODULE registers others), got 'shift'" in refusal(*evaluate, cwd=tmp_path)
  line = refusal(*train, cwd=tmp_path)
  assert "unknown config 'mine'; " in line and "--import=MODULE" in line


@pytest.mark.parametrize(
  "text, message",
  [
    (None, "--import=wrong_0 failed: No module named 'wrong_0'"),
    ("1 / 0", "--import=wrong_1 failed: division by zero"),
    (
      "import flowpp_tf as fpp\nfpp.register_dataset('digits', lambda: None)",
      "--import=wrong_2 failed: `name` must be new: the ",
    ),
  ],
)
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, text, message):
  name = message.split()[0].partition("=")[2]
  if text is not None:
    (tmp_path / f"{name}.py").write_text(text)
  assert f"error: {message}" in refusal("train", "--config=digits", f"--import={name}", cwd=tmp_path)

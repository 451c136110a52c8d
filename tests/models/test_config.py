"""Configs and structures: the published size, and one clear line for what cannot be built."""

import dataclasses
import json

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.config import TrainingConfig
from flowpp_tf.config.size import model_size
from flowpp_tf.config.structure import parse_structure
from support.programs import ROOT, run
from support.refusing import refuses

# Parameters of the published models, and the dequantizer's share.
PUBLISHED = {
  "cifar10": (31443440, 3466976),
  "imagenet32": (168955724, 35549536),
  "imagenet64": (73489960, 5654440),
  "imagenet64_5bit": (73489960, 5654440),
  "celeba64_5bit": (73489960, 5654440),
  "celeba64_3bit": (73489960, 5654440),
  "celeba128_5bit": (122790952, 8308648),
  "cifar10_vflow": (39700096, 3466976),
  "cifar10_400_epochs": (31443440, 3466976),
  "cifar10_uniform_dequantization": (32324408, 0),
  "cifar10_affine_coupling": (32045708, 3035168),
  "cifar10_no_attention": (31443440, 3466976),
}
FEWER_LEVELS = ["imagenet64_5bit", "celeba64_5bit", "celeba64_3bit"]  # than imagenet64, and otherwise equal to it
ON_OTHER_DATA = {"imagenet32_new": "imagenet32", "imagenet64_new": "imagenet64"}  # otherwise equal to these


# Prints the peak memory by that of the weights, of the process: `getrusage` would count what it was forked from.
PEAK = """
import sys
import flowpp_tf as fpp
model = fpp.FlowPlusPlus(fpp.get_config(sys.argv[1]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(1024 * int(status["VmHWM"].split()[0]) / (4 * model.count_params()))
"""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_number_of_parameters(name):
  """By the formula that test_model.py compares with built models."""
  config = fpp.get_config(name)
  size, without = model_size(config), model_size(dataclasses.replace(config, dequantization="uniform"))
  assert (size.parameters, size.parameters - without.parameters) == PUBLISHED[name]


@pytest.mark.exhaustive
def test_the_largest_model_is_built_without_copies_of_its_weights():
  """In a process of its own, which gives the memory back."""
  result = run(["-c", PEAK], "imagenet32", PYTHONPATH=str(ROOT))
  assert result.code == 0 and float(result.out) < 3, result.error


def test_the_recipes_of_published_models_have_the_epsilon_of_tensorflow_1_and_no_others():
  epsilons = {name: fpp.Recipe.load(name).settings.get("adam_epsilon") for name in fpp.recipes()}
  assert {name for name, epsilon in epsilons.items() if epsilon == 1e-8} == {*PUBLISHED, *ON_OTHER_DATA}
  assert {epsilon for name, epsilon in epsilons.items() if name not in {*PUBLISHED, *ON_OTHER_DATA}} == {None}


@pytest.mark.parametrize("name", FEWER_LEVELS)
def test_published_models_of_fewer_levels_are_otherwise_those_of_all_levels(name):
  config = fpp.get_config("imagenet64")
  assert dataclasses.replace(fpp.get_config(name), levels=config.levels) == config
  assert PUBLISHED[name] == PUBLISHED["imagenet64"]


def test_each_imagenet_has_the_published_recipe_and_names_its_version():
  for name, old in ON_OTHER_DATA.items():
    assert fpp.get_config(name) == fpp.get_config(old)
    assert dict(fpp.Recipe.load(name).settings) == {**fpp.Recipe.load(old).settings, "dataset": name}
    assert fpp.Recipe.load(old).settings["dataset"] == f"{old}_old"


def test_every_config_can_be_built_and_fits_the_data_set_of_its_name():
  for name in ("digits", "photos"):
    from flowpp_tf.data import load_dataset

    load_dataset(name).check(fpp.get_config(name))
    fpp.FlowPlusPlus(fpp.get_config(name))


def test_structure_gives_the_shapes_of_the_published_model():
  stages = parse_structure("columns:4,squeeze,channels:2,columns:3", (32, 32, 3))
  assert [(s.kind, s.couplings, s.split_shape) for s in stages if s.couplings] == [
    ("columns", 4, (32, 16, 6)),
    ("channels", 2, (16, 16, 12)),
    ("columns", 3, (16, 8, 24)),
  ]
  assert stages[-1].output_shape == (16, 16, 12)


@pytest.mark.parametrize(
  "structure, shape, message",
  [
    ("columns:1", (4, 5, 1), "at 'columns:1' the width is 5, which cannot be halved"),
    ("channels:1", (4, 4, 3), "the number of channels is 3"),
    ("columns:1,squeeze", (5, 4, 1), "at 'squeeze' the height is 5"),
    ("squeeze,squeeze", (6, 4, 1), "the height is 3"),
    ("rows:3", (4, 4, 1), "an entry 'rows:3'; expected columns:N, channels:N or squeeze"),
    ("columns:0", (4, 4, 1), "an entry 'columns:0'"),
    ("", (4, 4, 1), "an entry ''"),
  ],
)
def test_a_structure_that_cannot_be_says_where(structure, shape, message):
  refuses(message, parse_structure, structure, shape)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(levels=1), "`levels` must be at least 2, got 1"),
    (dict(image_shape=(8, 8)), "`image_shape` must be three positive integers"),
    (dict(filters=0), "`filters` must be at least 1, got 0"),
    (dict(filters=6), "`filters` must be a multiple of the 4 heads, got 6"),
    (dict(dropout=1.0), r"`dropout` must be in \[0, 1\), got 1.0"),
    (dict(coupling_margin=0.5), r"`coupling_margin` must be in \[0, 1/2\), got 0.5"),
    (dict(coupling_margin=0.05, coupling="affine"), "`coupling_margin` must be 0 unless `coupling` is mix.*, got 0.05"),
    (dict(augment_end="tanh"), "`augment_end` must be one of none, sigmoid, got 'tanh'"),
    (dict(augment_end="sigmoid"), "`augment_end` must be none unless a flow draws `augment_channels`"),
    (dict(augment_end="sigmoid", augment_channels=1, augment_posterior="normal"), "`augment_end` must be none"),
    (dict(invertible_conv_init="zeros"), "`invertible_conv_init` must be"),
    (dict(invertible_conv_init="whitening", invertible_conv="lu"), "identity unless `invertible_conv` is dense"),
    (dict(invertible_conv_stddev=-1.0), "`invertible_conv_stddev` must be at least 0, got -1.0"),
    (dict(dtype="float16"), "`dtype` must be one of float32, float64, mixed_bfloat16, mixed_float16, got"),
    (dict(flow_dtype="float32"), "`flow_dtype` must be float64 or empty, got 'float32'"),
    (dict(dequant_structure="squeeze"), "`dequant_structure` must be columns:N only"),
    (dict(dequant_structure="rows:1"), "`dequant_structure` 'rows:1' has an entry"),
    (dict(image_shape=(9, 8, 1)), "the height is 9, which cannot be halved"),
  ],
)
def test_a_config_without_meaning_names_field_value_and_what_was_expected(changes, message):
  refuses(message, dataclasses.replace, fpp.get_config("digits"), **changes)


def test_numbers_of_numpy_become_those_of_python():
  """Such as `images.max() + 1` levels: JSON has no others, and those of 8 bits overflow."""
  changes = dict(levels=np.uint8(17), image_shape=np.array([4, 4, 1]), attention=np.bool_(False))
  config = dataclasses.replace(fpp.get_config("digits"), dropout=np.float32(0.25), **changes)
  settings = TrainingConfig(steps=np.int64(5), clip_norm=np.float32(0.5), ema_warmup=np.bool_(True))
  expected = dict(levels=17, image_shape=[4, 4, 1], attention=False, dropout=0.25)
  assert json.loads(json.dumps(dataclasses.asdict(config))).items() >= expected.items()
  recipe = fpp.Recipe.load("digits").replace(steps=np.int64(3), dropout=np.float64(0.25), flip=np.True_).settings
  assert json.loads(json.dumps({**recipe})) == recipe and recipe["steps"] == 3
  expected = dict(steps=5, clip_norm=0.5, ema_warmup=True)
  assert json.loads(json.dumps(dataclasses.asdict(settings))).items() >= expected.items()


def test_an_unknown_config_names_the_close_ones():
  refuses("unknown config 'cifar'; did you mean cifar10", fpp.get_config, "cifar")


@pytest.mark.parametrize("settings", [dict(steps=10, epochs=5.0), dict(precision="bfloat16", dtype="float32")])
def test_a_recipe_has_one_of_two_settings_that_say_the_same(settings):
  refuses("one of them$", fpp.Recipe, fpp.get_config("digits"), settings)


def test_a_recipe_does_not_change_with_the_settings_that_it_was_given():
  settings = {"steps": 5}
  recipe = fpp.Recipe(fpp.get_config("digits"), settings)
  settings["steps"] = -7
  assert recipe.settings == {"steps": 5}

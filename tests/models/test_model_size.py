"""The size of a model follows from its config, and is claimed before a model of a stranger's config is built."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import models
from flowpp_tf.config import size
from flowpp_tf.config.size import model_size
from flowpp_tf.core.registry import COUPLINGS
from flowpp_tf.io import budget
from flowpp_tf.io.budget import Budget, BudgetError
from support.marks import exhaustive, slow
from support.models import TINY

BASE = fpp.FlowPlusPlusConfig(
  image_shape=(4, 4, 2),
  structure="columns:1",
  filters=4,
  heads=2,
  blocks=1,
  components=2,
  dequant_structure="columns:1",
  dequant_filters=4,
  dequant_blocks=1,
  context_channels=4,
  context_blocks=1,
  condition_channels=3,
  augment_blocks=2,
)
CHOICES = {
  "structure": ["columns:1", "columns:2,squeeze,channels:1", "squeeze,channels:2,columns:1", "channels:2"],
  "coupling": [*COUPLINGS],
  "attention": [True, False],
  "invertible_conv": ["dense", "lu", "none"],
  "weight_norm": [True, False],
  "output_concat_elu": [True, False],
  "dequantization": ["variational", "uniform"],
  "dequant_mixing": [True, False],
  "context_layer_norm": [True, False],
  "context_attention": [True, False],
  "augment_channels": [0, 2],
  "augment_posterior": ["flow", "normal"],
  "num_classes": [0, 3],
  "condition_shape": [(), (2, 2, 1), (4, 4, 3)],
  "blocks": [1, 3],
  "padding": ["zeros", "periodic"],
  "act_norm_per_position": [True, False],
}


def of_model(config):
  model = fpp.FlowPlusPlus(config)
  return size.ModelSize(model.count_params(), len([*model._flatten_layers()]))


@pytest.mark.parametrize("seed", [*range(4), *map(slow, range(4, 12))])
def test_sizes_of_small_models_of_every_kind_are_those_of_the_built_ones(seed):
  rng = np.random.RandomState(seed)
  config = dataclasses.replace(BASE, **{name: values[rng.randint(len(values))] for name, values in CHOICES.items()})
  assert model_size(config) == of_model(config), config
  config = dataclasses.replace(config, dequantization="none", augment_channels=0)
  assert model_size(config) == of_model(config), config


LARGE = sorted(name for name in fpp.CONFIGS if "imagenet" in name or "celeba" in name or name.startswith("cifar10_"))


@pytest.mark.parametrize(
  "name", ["digits", *map(slow, sorted({*fpp.CONFIGS} - {"digits", *LARGE})), *map(exhaustive, LARGE)]
)
def test_sizes_of_the_shipped_configs_are_those_of_the_built_models(name):
  assert model_size(fpp.get_config(name)) == of_model(fpp.get_config(name))


# --- Claims ---------------------------------------------------------------------------------------

HUGE = {"blocks": 65_536, "filters": 65_536, "heads": 1}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("presets") / "mine"
  fpp.FlowPlusPlus(TINY).save_to_preset(folder, "a model")
  return folder


def test_a_config_of_a_huge_model_is_refused_before_it_is_built(preset, tmp_path, monkeypatch):
  folder = shutil.copytree(preset, tmp_path / "mine")
  run = json.loads((folder / "config.json").read_text())
  built = []
  monkeypatch.setattr(models.flow_plus_plus, "CouplingFlow", lambda *args, **kwargs: built.append(args))
  for change in ({"blocks": 65_536}, HUGE, {"image_shape": [65_536, 65_536, 1]}):
    run["model"].update(change)
    (folder / "config.json").write_text(json.dumps(run))
    message = "the model of .* would take .* of memory; at most 4 GiB are allowed .--memory raises the limit"
    with pytest.raises(BudgetError, match=message):
      fpp.FlowPlusPlus.from_preset(folder)
    with pytest.raises(BudgetError, match=message):
      fpp.load(folder)
  with pytest.raises(BudgetError, match=message):  # as Keras makes it from a .keras file
    fpp.FlowPlusPlus.from_config({"config": run["model"], "name": "a"})
  assert not built


def test_the_budget_can_be_raised_and_a_users_own_config_is_not_limited(preset):
  with budget.use(Budget(memory=1 << 20)):
    fpp.FlowPlusPlus(TINY)
    with pytest.raises(BudgetError):
      fpp.FlowPlusPlus.from_preset(preset)
  with budget.use(Budget(memory=model_size(TINY).memory())):
    fpp.FlowPlusPlus.from_preset(preset)


@pytest.mark.parametrize("sizes", [{}, {"event_size": 5, "context_size": 3, "couplings": 2, "hidden": 7, "blocks": 1}])
def test_a_flow_of_vectors_is_claimed_when_it_comes_from_a_file(sizes):
  layer = fpp.VectorFlow(**{"event_size": 2, **sizes})
  expected = size.vector_flow_size(**layer._config)
  assert expected == size.ModelSize(layer.count_params(), len([*layer._flatten_layers()]))
  config = layer.get_config()
  with budget.use(Budget(memory=expected.memory())):
    fpp.VectorFlow.from_config(config)
    with pytest.raises(BudgetError, match="a `VectorFlow` would take"):
      fpp.VectorFlow.from_config({**config, "dtype": keras.dtype_policies.serialize(keras.DTypePolicy("float64"))})
  with pytest.raises(BudgetError, match="a `VectorFlow` would take 25.7 GiB"):
    fpp.VectorFlow.from_config({"event_size": 2, "couplings": 60_000, "hidden": 4})

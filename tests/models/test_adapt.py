"""Which models count as initialised: `adapt` asks before it replaces weights, in whatever way they came."""

import copy
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import training
from flowpp_tf.models import InitialWeights, export_official_weights
from flowpp_tf.training.loop import Run
from support.comparing import assert_same
from support.marks import quick_rows, slow
from support.models import TINY, small_config, small_images
from support.refusing import refuses
from support.training_steps import small_run

CONFIG = small_config(TINY, structure="columns:1", dequantization="uniform", attention=False, components=2)
IMAGES = small_images(16)


def new(config=CONFIG):
  return fpp.FlowPlusPlus(config)


def adapted():
  model = new()
  model.adapt(IMAGES)
  return model


def weights_file(name, **options):
  def load(model, tmp_path):
    model.save_weights(tmp_path / name, **options)
    return loaded_from(tmp_path / name)

  return load


def loaded_from(path):
  other = new()
  other.load_weights(path)
  return other


def saved(name, load=keras.saving.load_model):
  def save_and_load(model, tmp_path):
    model.save(tmp_path / name)
    return load(tmp_path / name)

  return save_and_load


def set_weights(model, tmp_path):
  other = new()
  other.set_weights(model.get_weights())
  return other


def in_an_outer_model(model, tmp_path):
  outer = lambda model: keras.Sequential([keras.Input(CONFIG.image_shape), model])
  outer(model).save_weights(tmp_path / "outer.weights.h5")
  other = new()
  outer(other).load_weights(tmp_path / "outer.weights.h5")
  return other


def preset(model, tmp_path):
  model.save_to_preset(tmp_path / "preset")
  return fpp.FlowPlusPlus.from_preset(tmp_path / "preset")


def official(model, tmp_path):
  export_official_weights(model, tmp_path / "weights.npz")
  other = new()
  fpp.load_official_weights(other, tmp_path / "weights.npz")
  return other


def init_from(model, tmp_path):
  model.save_to_preset(tmp_path / "preset")
  other = new()
  InitialWeights.find(str(tmp_path / "preset")).load(other)
  return other


def workdir(model, tmp_path):
  store = training.Workdir(tmp_path)
  with store.sole_owner():
    store.open(CONFIG, {})
    store.save_best(model, 1, 1.0)
  return fpp.load(tmp_path)


WAYS = {
  "weights.h5": weights_file("model.weights.h5"),
  "shards": weights_file("model.weights.json", max_shard_size=1),
  "h5": saved("model.h5", loaded_from),
  "keras": saved("model.keras"),
  "weights of keras": saved("model.keras", loaded_from),
  "set_weights": set_weights,
  "outer model": in_an_outer_model,
  "preset": preset,
  "release": official,
  "init_from": init_from,
  "workdir": workdir,
  "deepcopy": lambda model, tmp_path: copy.deepcopy(model),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Keras, about the old format
@pytest.mark.parametrize("way", quick_rows(WAYS, ["weights.h5", "set_weights", "release"]))
def test_loaded_weights_are_replaced_only_if_asked_to(way, tmp_path):
  model = adapted()
  loaded = WAYS[way](model, tmp_path)
  assert loaded.initialized
  before = loaded.get_weights()
  assert_same(before, model.get_weights(), rtol=1e-3, atol=1e-5)
  refuses("initialised already.*`overwrite=True`", loaded.adapt, small_images(16, seed=1))
  assert_same(loaded.get_weights(), before)
  loaded.adapt(small_images(16, seed=1), overwrite=True)
  assert any(np.any(a != b) for a, b in zip(loaded.get_weights(), before))


def test_a_new_model_is_not_initialised_and_the_mark_is_no_weight():
  model = new()
  paths = [v.path for v in model.variables]
  assert not model.initialized
  model.adapt(IMAGES)
  assert model.initialized and [v.path for v in model.variables] == paths
  assert not keras.models.clone_model(model).initialized  # with weights of its own
  model = new()
  model.initialize(IMAGES)
  assert model.initialized


def test_weights_that_do_not_fit_and_wrong_images_leave_a_model_new(tmp_path):
  new(dataclasses.replace(CONFIG, filters=2 * CONFIG.filters)).save_weights(tmp_path / "other.weights.h5")
  model = new()
  with pytest.raises(ValueError):
    model.load_weights(tmp_path / "other.weights.h5")
  with pytest.raises(ValueError):
    model.set_weights([])
  refuses("`images` must", model.adapt, IMAGES / 255)
  refuses("`batch_size` must be at least 1, got 0", model.adapt, IMAGES, batch_size=0)
  refuses("at least one image", model.adapt, tf.data.Dataset.from_tensor_slices(IMAGES[:0]).batch(4))
  assert not model.initialized


@pytest.mark.parametrize("count, used", [(40, range(0, 40, 5)), (15, [0, 1, 3, 5, 7, 9, 11, 13])])
def test_adapt_uses_at_most_a_batch_of_images_from_all_over_an_array(count, used):
  models = [new(), new()]
  models[1].set_weights(models[0].get_weights())
  models[0].adapt(small_images(count), batch_size=8)
  models[1].initialize(small_images(count)[used], overwrite=True)
  assert_same(*(model.get_weights() for model in models))


@pytest.mark.slow
def test_a_run_initialises_its_model_itself_and_a_resumed_one_is_initialised(tmp_path, monkeypatch):
  models, restore = [], Run.restore

  def restored(run):
    models.append(run._state.model)
    return restore(run)

  monkeypatch.setattr(Run, "restore", restored)
  for steps in (1, 2):
    small_run(tmp_path, CONFIG, steps=steps)
  assert [model.initialized for model in models] == [True, True]


@pytest.mark.parametrize("way", ["weights", slow("keras")])
def test_a_flow_of_vectors_asks_too(way, tmp_path):
  x = np.random.RandomState(0).randn(100, 2).astype(np.float32)
  make = lambda: fpp.VectorFlow(2, couplings=1, hidden=8, blocks=1)
  flow = make()
  assert not flow.initialized
  flow.adapt(x)
  model = keras.Sequential([keras.Input([2]), flow])
  if way == "keras":
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras").layers[-1]
  else:
    loaded = make()
    loaded.set_weights(flow.get_weights())
  for each in (flow, loaded):
    assert each.initialized
    refuses("initialised already", each.adapt, x)
    before = each.get_weights()
    each.adapt(3 * x, overwrite=True)
    assert any(np.any(a != b) for a, b in zip(each.get_weights(), before))
  assert tf.reduce_all(tf.math.is_finite(loaded(x)))

"""Flows that are saved, pickled, copied, and written with Keras models that own them."""

import ast
import copy
import json
import pathlib
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.posterior import support as fpp_support
from support.marks import quick_rows
from support.models import perturb
from support.refusing import refuses

tfd = tfp.distributions
TINY = dict(couplings=1, components=2, hidden=8, blocks=1)
RNG = np.random.RandomState(0)
THETA = RNG.uniform(0.1, 0.9, [300, 2]).astype(np.float32)
SERIES = (THETA[:, np.newaxis, :1] + 0.1 * RNG.normal(size=[300, 5, 1])).astype(np.float32)


def flow(*args, **options):
  return perturb(fpp.vector_flow(*args, **{**TINY, **options}), seed=1)


def network():
  scale = keras.layers.Normalization()
  scale.adapt(SERIES)
  return keras.Sequential([keras.Input([5, 1]), scale, keras.layers.Flatten(), keras.layers.Dense(3, activation="elu")])


BOX = fpp_support.box([0.0, 0.0], [1.0, 2.0])
FLOWS = {
  "plain": lambda: flow(2),
  "tails": lambda: flow(2, df=3.0),
  "box": lambda: flow(2, support=BOX),
  "mixed": lambda: flow(2, support=[fpp_support.positive(), None]),
  "simplex": lambda: flow(3, support=fpp_support.simplex()),
  "double": lambda: flow(2, dtype="float64"),
  "context": lambda: flow(2, 3),
  "embedding": lambda: fpp.vector_flow(2, embedding=network(), **TINY),
  "ensemble": lambda: fpp.ensemble([flow(2, df=3.0), fpp.ensemble([flow(2), flow(2)])]),
  "embeddings": lambda: fpp.ensemble([fpp.vector_flow(2, embedding=network(), **TINY) for _ in range(2)]),
  "images": lambda: perturb(fpp.image_flow((4, 4, np.int64(1)), (1, 1, 2), filters=4), seed=1),
}


def as_model(flow):
  """Return a Keras model that owns a flow."""
  inputs = [keras.Input(flow.event_shape)]
  if flow.context_size:
    inputs.append(keras.Input([size or 1 for size in flow.context_shape]))
  return keras.Model(inputs, fpp.layers.Flow(flow)(*inputs))


def density(flow):
  """Return the log density of values, given a context if there is one."""
  size = 3 if flow.event_shape == [3] else 2
  x = THETA[:4, [0, 1, 1][:size]] if len(flow.event_shape) == 1 else RNG_IMAGES
  x = x / x.sum(axis=-1, keepdims=True) if size == 3 else x
  if flow.context_size:
    data = {(5, 1): SERIES, (3,): SERIES[:, :3, 0], (None, None, 2): THETA[:, np.newaxis, np.newaxis]}
    flow = flow.given(data[flow.context_shape][:4])
  return flow.log_prob(x).numpy()


RNG_IMAGES = np.random.RandomState(1).normal(size=[4, 4, 4, 1]).astype(np.float32)


@pytest.mark.parametrize("name", quick_rows(FLOWS, ("box", "context", "embedding", "ensemble")))
def test_a_flow_is_the_same_after_a_file_a_pickle_and_a_copy(name, tmp_path):
  made = FLOWS[name]()
  expected = density(made)
  fpp.save(made, tmp_path / "flow")
  as_model(made).save(tmp_path / "flow.keras")
  from_keras = keras.saving.load_model(tmp_path / "flow.keras").layers[-1].distribution
  others = [fpp.load(tmp_path / "flow"), pickle.loads(pickle.dumps(made)), copy.deepcopy(made), from_keras]
  for other in others:
    assert type(other) is type(made)
    np.testing.assert_array_equal(density(other), expected)
  shallow = copy.copy(made)
  made.trainable_variables[0].assign_add(tf.ones_like(made.trainable_variables[0]))
  assert np.any(density(made) != expected)
  np.testing.assert_array_equal(density(shallow), density(made))
  np.testing.assert_array_equal(density(pickle.loads(pickle.dumps(shallow))), density(made))
  for other in others:
    np.testing.assert_array_equal(density(other), expected)


IN_A_NEW_PROCESS = """
import pickle, sys
import flowpp_tf as fpp
import numpy as np
folder, way = sys.argv[1:]
if way == "folder":
  flow = fpp.load(f"{folder}/flow")
elif way == "pickle":
  flow = pickle.load(open(f"{folder}/flow.pickle", "rb"))
else:
  import keras
  flow = keras.saving.load_model(f"{folder}/flow.keras").layers[-1].distribution
expected = np.load(f"{folder}/expected.npz")
given = flow.given(expected["series"])
assert given.sample(7, seed=0).shape == (7, 4, 2)
np.testing.assert_array_equal(given.log_prob(expected["theta"]), expected["log_prob"])
"""


@pytest.mark.slow
def test_a_trained_posterior_is_read_in_a_new_process(tmp_path):
  keras.utils.set_random_seed(0)
  new = fpp.vector_flow_for(THETA, SERIES, support=BOX, embedding=network(), **TINY)
  trained = fpp.fit(new, THETA, SERIES, members=3, steps=5).flow
  fpp.save(trained, tmp_path / "flow")
  (tmp_path / "flow.pickle").write_bytes(pickle.dumps(trained))
  theta, series = keras.Input([2]), keras.Input([5, 1])
  keras.Model([theta, series], fpp.layers.Flow(trained)(theta, series)).save(tmp_path / "flow.keras")
  log_prob = trained.given(SERIES[:4]).log_prob(THETA[:4])
  np.savez(tmp_path / "expected.npz", theta=THETA[:4], series=SERIES[:4], log_prob=log_prob)
  for way in ("folder", "pickle", "keras"):
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path), way], check=True)


def test_keras_knows_every_class_of_the_package_before_it_is_imported():
  package = pathlib.Path(fpp.__file__).parent
  decorated = {
    node.name
    for path in package.rglob("*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef) and any("register_keras" in ast.unparse(d) for d in node.decorator_list)
  }
  assert decorated == {name for names in fpp._KERAS.values() for name in names}
  for module, names in fpp._KERAS.items():
    for name in names:
      assert hasattr(getattr(__import__(f"flowpp_tf.{module}"), module), name)


class Powers(tfp.bijectors.Exp):
  """A bijector of another name than that of its class."""

  def __init__(self):
    super().__init__(name="powers")


class Unregistered(keras.layers.Layer):
  def call(self, x):
    return x


def test_what_cannot_be_read_again_is_refused_when_it_is_written(tmp_path):
  conditional = flow(2, 1)
  foreign = fpp.distributions.FlowDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), conditional.bijector)
  unknown = keras.Sequential([keras.Input([3]), Unregistered()])
  softplus = flow(2, support=tfp.bijectors.Softplus())
  for made, message in (
    (foreign, "^'flow' cannot be made again"),
    (conditional.given([0.5]), "^'vector_flow_given' cannot be made again"),
    (fpp.ensemble([foreign]), "^'flow' cannot be made again"),
    (flow(2, embedding=unknown), "^the embedding 'sequential.*' cannot be saved: .*Unregistered"),
    (softplus, "the `support` 'softplus' cannot be saved"),
    (flow(2, support=Powers()), "the `support` 'powers' cannot be saved"),
  ):
    for write in (pickle.dumps, copy.deepcopy, lambda made: fpp.save(made, tmp_path / "flow")):
      refuses(message, write, made)
    refuses(message, fpp.layers.Flow(made).get_config)
  assert not [*tmp_path.iterdir()]
  refuses("^`flow` must be a `FlowDistribution`", fpp.save, tfd.Normal(0.0, 1.0), tmp_path / "flow")


def test_a_folder_of_something_else_is_neither_replaced_nor_read(tmp_path):
  made = flow(2)
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "letter.txt").write_text("dear")
  refuses("exists already", fpp.save, made, tmp_path / "other")
  refuses("cannot be overwritten: it is not a flow", fpp.save, made, tmp_path / "other", overwrite=True)
  refuses("holds no run", fpp.load, tmp_path / "other")
  fpp.save(made, tmp_path / "flow")
  refuses("exists already", fpp.save, made, tmp_path / "flow")
  fpp.save(flow(2, support=BOX), tmp_path / "flow", overwrite=True)
  assert fpp.load(tmp_path / "flow").log_prob([-1.0, 0.5]) == -np.inf
  (tmp_path / "flow" / "letter.txt").write_text("dear")
  refuses("cannot be overwritten: it also holds letter.txt", fpp.save, made, tmp_path / "flow", overwrite=True)


def changed(**changes):
  """Return a function that changes arguments of a flow in its file."""

  def change(about):
    about["flow"]["arguments"].update(changes)

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (changed(hidden=9), "the weights do not fit the model"),
    (changed(hidden=1 << 15), "would take .* of memory"),
    (changed(event_size="2"), "`event_size` must be an integer"),
    (changed(surprise=1), "surprise"),
    (changed(embedding={"class_name": "Lambda", "config": {}, "module": "keras.layers"}), "flow.json' cannot be read"),
    (changed(support={"box": [[2.0], [1.0]]}), "`low` and `high`"),
    (lambda about: about.update(format=2), "must have the format 1"),
    (lambda about: about.update(flow=[]), "a flow must have `kind`"),
    (lambda about: about["flow"].update(kind="os.system"), "a flow must have `kind`"),
    (lambda about: about.clear(), "must have the format 1"),
  ],
)
def test_a_damaged_description_is_one_line(change, message, tmp_path):
  fpp.save(flow(2), tmp_path / "flow")
  path = tmp_path / "flow" / "flow.json"
  about = json.loads(path.read_text())
  change(about)
  path.write_text(json.dumps(about))
  refuses(message, fpp.load, tmp_path / "flow")


def test_damaged_weights_of_a_flow_are_one_line(tmp_path):
  fpp.save(flow(2), tmp_path / "flow")
  path = tmp_path / "flow" / "flow.safetensors"
  content = path.read_bytes()
  for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
    path.write_bytes(damaged)
    refuses("cannot be read: ", fpp.load, tmp_path / "flow")
  path.unlink()
  refuses("cannot be read: No such file", fpp.load, tmp_path / "flow")


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_support_box_or_base_are_not_loaded(tmp_path):
  flows = {name: FLOWS[name]() for name in ("plain", "tails", "box")}
  flows["other box"] = flow(2, support=fpp_support.box([0.0, 0.0], [1.0, 3.0]))
  flows["softplus"] = flow(2, support=tfp.bijectors.Softplus())
  others = [*flows.values()][1:] + [flows["plain"]]
  for (name, made), other in zip(flows.items(), others):
    path = tmp_path / f"{name}.weights.h5"
    as_model(made).save_weights(path)
    as_model(made).load_weights(path)
    with pytest.raises(ValueError, match="the weights must be of a flow with "):  # in a text of Keras
      as_model(other).load_weights(path)
  pair = fpp.ensemble([flows["plain"], flows["box"]])
  as_model(pair).save_weights(tmp_path / "pair.weights.h5")
  with pytest.raises(ValueError, match="the weights must be of a flow with "):
    as_model(fpp.ensemble(pair.flows[::-1])).load_weights(tmp_path / "pair.weights.h5")

"""What public callables are called with: small models, flows, data sets and files, each made when it is first used."""

import functools
import io
import json
import pathlib
import shutil
import tempfile
import weakref

import keras
import numpy as np
from PIL import Image

import flowpp_tf as fpp
from flowpp_tf import compression, data, evaluation, training
from support.models import CONDITIONED, MINIMAL, perturb, small_config, small_images

CONDITIONAL = small_config(**CONDITIONED)
TILES = small_config(tile_neighbours=True, condition_channels=4, condition_blocks=1)
LABELLED = small_config(num_classes=3)
VECTORS = dict(couplings=1, components=2, hidden=4, blocks=1)
IMAGES = small_images(3)
LABELS = np.array([0, 1, 2], np.int32)
POINTS = np.random.RandomState(0).randn(3, 2).astype(np.float32)
CONTEXT = np.random.RandomState(1).randn(3, 3).astype(np.float32)
NORMAL = lambda *shape: np.random.RandomState(2).randn(*shape).astype(np.float32)
UNIFORM = lambda *shape: np.random.RandomState(3).uniform(0.2, 0.8, shape).astype(np.float32)


class World:
  """The objects, by name."""

  def __init__(self):
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flowpp_tf_world_"))
    weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

  def new(self, name):
    """A path in which nothing is."""
    path = self.folder / "new" / name
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    return path

  # --- Models -----------------------------------------------------------------------------------

  model = functools.cached_property(lambda self: _model(MINIMAL))
  conditional = functools.cached_property(lambda self: _model(CONDITIONAL))
  real_valued = functools.cached_property(lambda self: _model(small_config(dequantization="none")))
  real_valued_conditional = functools.cached_property(
    lambda self: _model(small_config(CONDITIONAL, dequantization="none"))
  )
  labelled = functools.cached_property(lambda self: _model(LABELLED))
  tile_model = functools.cached_property(lambda self: _model(TILES))
  flow = functools.cached_property(lambda self: _perturbed(fpp.vector_flow(2, **VECTORS)))
  flow_given = functools.cached_property(lambda self: _perturbed(fpp.vector_flow(2, 3, **VECTORS)))
  layer = functools.cached_property(lambda self: _perturbed(fpp.VectorFlow(2, **VECTORS)))
  layer_given = functools.cached_property(lambda self: _perturbed(fpp.VectorFlow(2, 3, **VECTORS)))

  def reset(self, *owners):
    """Give models and flows that a call has changed the weights of the start."""
    for owner in owners:
      for variable, value in zip(owner.weights if hasattr(owner, "weights") else owner.variables, owner.start):
        variable.assign(value)
      if hasattr(owner, "initialized"):
        owner.initialized = True

  loaded = functools.cached_property(lambda self: fpp.load_saved_model(self.exported))

  @functools.cached_property
  def exported(self):
    fpp.export(self.conditional, self.folder / "exported" / "1")
    return self.folder / "exported" / "1"

  # --- Data, runs, archives ---------------------------------------------------------------------

  @functools.cached_property
  def dataset(self):
    images = small_images(20)
    labels = {"train": np.arange(12) % 3, "validation": np.arange(4) % 3, "test": np.arange(4) % 3}
    return data.ImageDataset(
      "small", 8, images[:12], images[12:16], images[16:], labels=labels, classes=("0", "1", "2")
    )

  @functools.cached_property
  def bytes_dataset(self):
    images = np.random.RandomState(0).randint(0, 256, [8, 4, 4, 2]).astype(np.uint8)
    return data.ImageDataset("bytes", 256, images[:4], images[4:6], images[6:])

  @functools.cached_property
  def pictures(self):
    """A folder of image files."""
    folder = self.folder / "pictures"
    folder.mkdir()
    for i, image in enumerate(np.random.RandomState(0).randint(0, 256, [30, 8, 8, 3]).astype(np.uint8)):
      Image.fromarray(image).save(folder / f"{i}.png")
    return folder

  @functools.cached_property
  def splits(self):
    """A file that says which picture is in which split."""
    path, names = self.folder / "splits.json", sorted(path.name for path in self.pictures.iterdir())
    path.write_text(json.dumps({"train": names[:20], "validation": names[20:25], "test": names[25:]}))
    return path

  @functools.cached_property
  def preset(self):
    self.model.save_to_preset(self.folder / "preset", "small")
    return self.folder / "preset"

  @functools.cached_property
  def weights_file(self):
    fpp.export_official_weights(self.official, self.folder / "weights.npz")
    return self.folder / "weights.npz"

  @functools.cached_property
  def weights_h5(self):
    self.model.save_weights(self.folder / "model.weights.h5")
    return self.folder / "model.weights.h5"

  @functools.cached_property
  def official(self):
    keras.utils.set_random_seed(0)
    return _started(fpp.FlowPlusPlus(small_config(coupling="mixture_logistic")))

  @functools.cached_property
  def run(self):
    """The working directory of a run of one step."""
    path = self.folder / "run"
    config = training.TrainingConfig(steps=1, batch_size=2, validate_every=1, tensorboard=())
    training.run_training(MINIMAL, config, self.dataset, training.Workdir(path), log_fn=lambda line: None)
    return path

  codec = functools.cached_property(lambda self: compression.Codec(self.model))
  archive = functools.cached_property(lambda self: fpp.compress(self.codec, IMAGES, embed_model=True))

  @property
  def reader(self):
    return compression.ArchiveReader(io.BytesIO(self.archive))

  @property
  def writer(self):
    return compression.ArchiveWriter(io.BytesIO(), self.codec)

  # --- Evaluation -------------------------------------------------------------------------------

  batched = functools.cached_property(lambda self: evaluation.BatchedModel(self.model))
  batched_labelled = functools.cached_property(lambda self: evaluation.BatchedModel(self.labelled))
  scorer = functools.cached_property(lambda self: evaluation.Scorer(self.model, 2))
  features = functools.cached_property(lambda self: evaluation.FeatureNetwork.train(self.dataset, steps=1))

  @functools.cached_property
  def twenty(self):
    """As many images in each split as there must be samples."""
    many = np.tile(IMAGES, [7, 1, 1, 1])[:20]
    return data.ImageDataset("twenty", 8, many, many, many)

  class_scorer = functools.cached_property(lambda self: evaluation.Scorer(self.labelled, 2))
  position_scorer = functools.cached_property(lambda self: evaluation.PositionScorer(self.labelled, 2))
  state = functools.cached_property(
    lambda self: training.TrainState(_model(MINIMAL), training.TrainingConfig(steps=1, batch_size=2))
  )


def _model(config):
  keras.utils.set_random_seed(0)
  return _perturbed(fpp.FlowPlusPlus(config))


def _perturbed(owner):
  perturb(owner)
  if hasattr(owner, "initialized"):
    owner.initialized = True
  return _started(owner)


def _started(owner):
  variables = owner.weights if hasattr(owner, "weights") else owner.variables
  object.__setattr__(owner, "start", [np.array(v) for v in variables])
  return owner

"""The processes of a race: this version or another checkout of it, or the authors' release, each built for one case.

python benchmarks/contestants.py FOLDER CONFIG WHAT BATCH THREADS PRECISION INIT_BATCH LANES < lines

prints what it took, for each line on stdin; race.py starts these. A FOLDER with `flows/run_cifar.py` is the release.
"""

import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from processes import Turns, limit_cores
import release

WARM_UP = 2  # calls before the first turn
DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@dataclasses.dataclass(frozen=True)
class Contestant:
  """What a process measures."""

  folder: str  # checkout of a version, or of the release
  config: str  # such as cifar10, or photos:28,28,1 for images of another shape
  what: str  # train, evaluate, evaluate_dynamic (as the programs do), sample
  batch: int
  threads: int
  precision: str
  init_batch: int  # images that initialise the weights
  lanes: int  # of a version that has lanes; 1 for none

  @property
  def command(self):
    """The command that starts the process."""
    return [sys.executable, __file__, *map(str, dataclasses.astuple(self))]


def is_release(folder):
  """Whether a folder has the release."""
  return (pathlib.Path(folder) / "flows" / "run_cifar.py").exists()


def run_release(contestant, turns):
  """The turns of the release; those of training are steps of its own loop."""
  if contestant.what == "train":

    def before_step(step):
      if step > WARM_UP:
        turns.end()
      if step == WARM_UP:
        turns.ready(parameters=release.parameters())
      if step >= WARM_UP:
        turns.begin()
      return 1e-6

    def after_step(values):
      if not np.isfinite(values["bpd"]):
        raise FloatingPointError(f"the release's loss is {values['bpd']} after step {values['iter']}")

    release.train(contestant.folder, contestant.batch, contestant.init_batch, before_step, after_step)
  else:
    built = release.inference(contestant.folder, contestant.batch, contestant.init_batch)
    _take_turns(built[contestant.what], release.parameters(), turns)


def run_version(contestant, turns):
  """The turns of a version of this project, from its checkout."""
  sys.path.insert(0, contestant.folder)
  import tensorflow as tf

  concat_shards = _use_lanes(contestant.threads, contestant.lanes)
  import flowpp_tf as fpp
  from flowpp_tf.training import TrainingConfig, TrainState, train_step

  name, _, size = contestant.config.partition(":")
  changes = {"image_shape": tuple(map(int, size.split(",")))} if size else {}
  model = fpp.FlowPlusPlus(dataclasses.replace(fpp.get_config(name), dtype=DTYPES[contestant.precision], **changes))
  shape = [contestant.init_batch, *model.config.image_shape]
  images = tf.cast(tf.random.stateless_uniform(shape, [0, 1], 0, model.config.levels, tf.int32), tf.uint8)
  model.initialize(images)
  images = images[: contestant.batch]
  noise = model.sample_noise([contestant.batch], tf.constant([0, 1]))
  log_likelihood = lambda images, noise: model.log_prob_bound(images, noise=noise, seed=0)
  if contestant.what == "train":
    state = TrainState(model, TrainingConfig(steps=1, learning_rate=1e-6))

    def call():
      train_step(state, images)
      return state.optimizer.iterations.value.read_value()  # what is waited for
  elif contestant.what == "sample":
    call = lambda: concat_shards(model.decode, model.sample_latents(contestant.batch, seed=0))
  elif contestant.what == "evaluate":
    call = lambda: concat_shards(log_likelihood, images, noise)
  else:
    from flowpp_tf.evaluation.distributed_function import DistributedFunction

    specs = [(model.config.image_shape, images.dtype), (model.noise_shape, noise.dtype)]
    evaluate = DistributedFunction(model, log_likelihood, specs)
    _take_turns(lambda: evaluate(images, noise), model.count_params(), turns)
  run = tf.function(call, autograph=False)
  _take_turns(lambda: run().numpy(), model.count_params(), turns)


def _use_lanes(threads, count):
  """Set up TensorFlow as the programs of the version do, and return its `concat_shards`."""
  import tensorflow as tf

  try:
    from flowpp_tf.core import lanes
  except ImportError:
    try:
      from flowpp_tf.devices import lanes
    except ImportError:  # before lanes
      tf.config.threading.set_intra_op_parallelism_threads(threads)
      return lambda function, *tensors: function(*tensors)
  lanes.use_cpu_lanes(count)
  return getattr(lanes, "concat_shards", None) or lanes.in_lanes  # its name in earlier versions


def _take_turns(run, parameters, turns):
  """Take turns until the process ends, which `Turns.begin` does."""
  for _ in range(WARM_UP):
    run()
  turns.ready(parameters=parameters)
  while True:
    turns.begin()
    run()
    turns.end()


def main(folder, config, what, batch, threads, precision, init_batch, lanes):
  turns = Turns()
  limit_cores(int(threads))
  contestant = Contestant(folder, config, what, int(batch), int(threads), precision, int(init_batch), int(lanes))
  (run_release if is_release(folder) else run_version)(contestant, turns)


if __name__ == "__main__":
  main(*sys.argv[1:])

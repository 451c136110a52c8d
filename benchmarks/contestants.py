"""The processes of a race: this version or another checkout of it, or the authors' release, each built for one case.

python benchmarks/contestants.py FOLDER CONFIG WHAT BATCH THREADS PRECISION INIT_BATCH < lines

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


@dataclasses.dataclass(frozen=True)
class Contestant:
  """What a process measures."""

  folder: str  # checkout of a version, or of the release
  config: str
  what: str  # train, evaluate, sample
  batch: int
  threads: int
  precision: str
  init_batch: int  # images that initialise the release's weights, a multiple of `batch`

  @property
  def command(self):
    """The command that starts the process."""
    return [sys.executable, __file__, *map(str, dataclasses.astuple(self))]


def is_release(folder):
  """Return whether a folder has the release."""
  return (pathlib.Path(folder) / "flows" / "run_cifar.py").exists()


def run_release(contestant, turns):
  """Take the turns of the release; those of training are steps of its own loop."""
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
  """Take the turns of a version of this project, from its checkout."""
  from model import Case, build, start_tensorflow

  sys.path.insert(0, contestant.folder)  # before this checkout, which the import above puts there
  start_tensorflow(contestant.threads, cpu_splits=contestant.threads)
  from flowpp_tf.config import CONFIGS
  from flowpp_tf.config.size import model_size

  case = Case(contestant.config, contestant.what, contestant.batch, contestant.threads, contestant.precision)
  run = build(case)
  _take_turns(lambda: run().numpy(), model_size(CONFIGS[contestant.config]).parameters, turns)


def _take_turns(run, parameters, turns):
  """Take turns until the process ends, which `Turns.begin` does."""
  for _ in range(WARM_UP):
    run()
  turns.ready(parameters=parameters)
  while True:
    turns.begin()
    run()
    turns.end()


def main(folder, config, what, batch, threads, precision, init_batch):
  turns = Turns()
  limit_cores(int(threads))
  contestant = Contestant(folder, config, what, int(batch), int(threads), precision, int(init_batch))
  (run_release if is_release(folder) else run_version)(contestant, turns)


if __name__ == "__main__":
  main(*sys.argv[1:])

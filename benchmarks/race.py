"""Race this version with the authors' release, or with another checkout of this project, in turns.

git clone https://github.com/aravindsrinivas/flowpp /tmp/release
python benchmarks/race.py --release=/tmp/release --output=race.json      the whole table, about an hour
python benchmarks/race.py --other=/tmp/before --case="digits train 64 2"

Times of one machine drift by tens of percent, in minutes. So the processes of a case take turns: the release or the
other version in float32, ours in float32 and in bfloat16. `start` is from the command to the first finished step of
training, the initialisation on 128 images included. `ratio` is of the medians, `spread` the slowest turn minus the
fastest, relative to the median; `peak_gib` is the peak resident memory during the turns, `others` the cores that other
processes took meanwhile. Linux only.
"""

import os
import pathlib
import statistics
import sys
import tempfile
from typing import NamedTuple

from absl import app, flags
import numpy as np

import first_step
from model import Case, build, start_tensorflow
from processes import TakesTurns, limit_cores
import release
from tables import markdown, write_json

FLAGS = flags.FLAGS
ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
CASES = (
  "cifar10 train 4 2",
  "cifar10 train 8 2",
  "cifar10 train 4 1",
  "cifar10 evaluate 4 2",
  "cifar10 evaluate 8 2",
  "cifar10 sample 4 2",
  "cifar10 sample 8 2",
  "cifar10 start 4 2",
)
START_IMAGES = 128  # that initialise the weights, as in the release
WARM_UP = 2  # calls before the first turn


class Contestant(NamedTuple):
  """What a process measures."""

  folder: str  # checkout of a version, or of the release
  case: Case
  init_batch: int  # images that initialise the release's weights, a multiple of `batch`


def is_release(folder):
  """Return whether a folder has the release."""
  return (pathlib.Path(folder) / "flows" / "run_cifar.py").exists()


def run_release(turns, contestant):
  """Take the turns of the release; those of training are steps of its own loop."""
  folder, case, init_batch = contestant
  if case.what == "train":

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

    release.train(folder, case.batch, init_batch, before_step, after_step)
  else:
    run = release.inference(folder, case.batch, init_batch)[case.what]
    _take_turns(turns, run, release.parameters())


def run_version(turns, contestant):
  """Take the turns of a version of this project, from its checkout."""
  folder, case, _ = contestant
  sys.path.insert(0, folder)  # before this checkout, which model.py puts there
  start_tensorflow(case.threads, cpu_splits=case.threads)
  from flowpp_tf.config import CONFIGS
  from flowpp_tf.config.size import model_size

  run = build(case)
  _take_turns(turns, lambda: run().numpy(), model_size(CONFIGS[case.config]).parameters)


def _take_turns(turns, run, parameters):
  """Take turns until the process is killed."""
  for _ in range(WARM_UP):
    run()
  turns.ready(parameters=parameters)
  while True:
    turns.begin()
    run()
    turns.end()


def contestants(case, rival, precisions, init_batch):
  """Return the processes of a case: the rival as "", and ours by their precision.

  Args:
    case: config, what, batch and threads in a text.
    rival: folder with the release or another version, which computes in float32.
    precisions: of ours.
    init_batch: images that initialise the release's weights, at least; a batch is a part of them.
  """
  config, what, batch, threads = case.split()
  make = lambda folder, precision: Contestant(
    folder, Case(config, what, int(batch), int(threads), precision), max(init_batch, int(batch))
  )
  ours = ["float32"] if what == "start" else precisions
  return {"": make(rival, "float32"), **{precision: make(ROOT, precision) for precision in ours}}


def rows(case, turns):
  """Return a row for each of our processes, as dicts.

  Args:
    case: as in `contestants`.
    turns: by precision, the rival's as "": the list of what each turn took.
  """
  config, what, batch, threads = case.split()
  before = _summary(turns[""], int(batch))
  result = []
  for precision, ours in turns.items():
    if precision:
      own = _summary(ours, int(batch))
      result.append(
        dict(
          config=config,
          what=what,
          batch=int(batch),
          threads=int(threads),
          precision=precision,
          turns=len(ours),
          ratio=own["seconds"] / before["seconds"],
          cpu_ratio=own["cpu_s"] / before["cpu_s"],
          **own,
          **{f"before_{name}": value for name, value in before.items()},
        )
      )
  return result


def _summary(turns, batch):
  """Return what a process took: medians over its turns, and its peak memory."""
  taken = {name: statistics.median(turn[name] for turn in turns) for name in ("seconds", "cpu_s", "others")}
  seconds = [turn["seconds"] for turn in turns]
  return dict(
    ms_image=1e3 * taken["seconds"] / batch,
    spread_percent=100 * (max(seconds) - min(seconds)) / taken["seconds"],
    peak_gib=max(turn["peak_bytes"] for turn in turns) / 2**30,
    **taken,
  )


def table(measured):
  """Yield the rows of the table of what was measured, as texts; of two values the second is the rival's."""
  head = "model||batch|cores|precision|time, ratio|seconds|spread|CPU time, ratio|peak GiB|memory, ratio|turns"
  yield *head.split("|"), "other processes' cores"
  for r in measured:
    both = lambda name, text: f"{text.format(r[name])}; {text.format(r[f'before_{name}'])}"
    yield (
      r["config"],
      r["what"],
      str(r["batch"]),
      str(r["threads"]),
      r["precision"],
      f"{r['ratio']:.2f}",
      both("seconds", "{:.3g}"),
      both("spread_percent", "{:.0f} %"),
      f"{r['cpu_ratio']:.2f}",
      both("peak_gib", "{:.2f}"),
      f"{r['peak_gib'] / r['before_peak_gib']:.2f}",
      str(r["turns"]),
      f"{r['others']:.1f}",
    )


def measure(case, rival, precisions, init_batch, rounds):
  """Return the rows of a case, measured now.

  Raises:
    RuntimeError: if a process ends early, or the models differ in their number of parameters.
  """
  racing = contestants(case, rival, precisions, init_batch)
  cores = os.sched_getaffinity(0)
  limit_cores(int(case.split()[-1]))  # of the processes too
  turns = (_starts if case.split()[1] == "start" else _in_turns)(racing, rounds)
  os.sched_setaffinity(0, cores)
  return rows(case, turns)


def _in_turns(racing, rounds):
  """Return the turns of each process."""
  processes = {}
  try:
    for name, contestant in racing.items():  # one after the other: they build with all cores
      run = run_release if is_release(contestant.folder) else run_version
      processes[name] = TakesTurns(run, contestant)
    sizes = {process.content["parameters"] for process in processes.values()}
    if len(sizes) > 1:
      raise RuntimeError(f"the models differ: {sorted(sizes)} parameters")
    measured = [{name: process.turn() for name, process in processes.items()} for _ in range(rounds)]
  finally:
    for process in processes.values():
      process.end()
  return {name: [turns[name] for turns in measured] for name in racing}


def _starts(racing, rounds):
  """Return, as `_in_turns`, what whole commands took."""
  measured = {name: [] for name in racing}
  with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / "images.npz"
    first_step.write_images(data, racing[""].case.config, START_IMAGES)
    for turn in range(rounds):
      for name, contestant in racing.items():
        command, line = _start_of(contestant, data, f"{folder}/{name}{turn}")
        measured[name].append(first_step.arrivals(command, {"first_step_s": line})[1])
  return measured


def _start_of(contestant, data, workdir):
  """Return the command that starts a training, and what the line begins with that ends the start."""
  folder, case, _ = contestant
  if is_release(folder):
    return release.train_command(folder, case.batch, START_IMAGES), release.FIRST_STEP
  command = first_step.train_command(folder, case.config, data, workdir, case.batch, START_IMAGES)
  return command, first_step.PARTS["first_step_s"]


def define_flags():
  """Define the script's flags; a function, as tests import this file."""
  flags.DEFINE_string("release", None, "Folder with a checkout of the authors' release.")
  flags.DEFINE_string("other", None, "Folder with a checkout of another version of this project.")
  flags.DEFINE_multi_string("case", list(CASES), "Config, what, batch, cores; may be given several times.")
  flags.DEFINE_list("precision", ["float32", "bfloat16"], "Of ours.")
  flags.DEFINE_integer("rounds", 7, "Turns of each process; of a start, whose turns are long, at most three.")
  flags.DEFINE_integer("init_batch", 32, "Images that initialise the release's weights before the turns.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  flags.mark_flags_as_mutual_exclusive(["release", "other"], required=True)


def main(argv):
  del argv
  rival = os.path.abspath(FLAGS.release or FLAGS.other)
  if FLAGS.release and not is_release(rival):
    raise app.UsageError(f"--release takes a folder with flows/run_cifar.py, which {rival} does not have")
  if FLAGS.release and not all(case.startswith("cifar10 ") for case in FLAGS.case):
    raise app.UsageError(f"the release is raced in cifar10 only, got --case={FLAGS.case}")
  measured = []
  for case in FLAGS.case:
    rounds = min(FLAGS.rounds, 3) if "start" in case.split() else FLAGS.rounds
    found = measure(case, rival, FLAGS.precision, FLAGS.init_batch, rounds)
    print(*found, sep="\n", file=sys.stderr, flush=True)
    measured += found
    write_json(FLAGS.output, measured)  # each is kept, should the next one fail
  print(markdown(list(table(measured))))


if __name__ == "__main__":
  define_flags()
  app.run(main)

"""This version beside the authors' release, or beside another checkout of this project, each in turn with the other.

git clone https://github.com/aravindsrinivas/flowpp /tmp/release
python benchmarks/race.py --release=/tmp/release --output=race.json      the whole table, about an hour
python benchmarks/race.py --other=/tmp/before --case="cifar10 train 4 2"

Times of one machine drift by tens of percent, in minutes. So the processes of a case take turns: the release or the
other version in float32, ours in float32 and in bfloat16. An evaluation is measured with a batch of known size, and
through the dynamic batch of our programs. `start` is from the command to the first finished step of training, the
initialisation on 128 images included. `busy` is a training step beside 0, 1 and 2 processes that always compute, ours
with lanes and without. `ratio` is of the medians, `spread` that of the slowest turn less the fastest, of the median;
CPU time and context switches are of a turn, `peak_gib` the peak resident memory during the turns. `load` is the load
average of the machine before and after the case, which the race itself raises by the cores that it uses, and `others`
the cores that other processes took during the turns. Linux only.
"""

import os
import pathlib
import statistics
import sys
import tempfile

from absl import app, flags

from contestants import Contestant, is_release
import first_step
from processes import TakesTurns, busy_processes, limit_cores
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
  "cifar10 busy 4 2",
  "digits train 64 2",
  "photos train 32 2",
  "photos:28,28,1 train 32 2",
)
BUSY = (0, 1, 2)
WITHOUT_LANES = "float32 without lanes"
START_IMAGES = 128  # that initialise the weights, as in the release
# What the turns of a process have, and the names of their medians in a row.
MEDIANS = dict(
  seconds="seconds", cpu_s="cpu_s", voluntary="switches_voluntary", involuntary="switches_involuntary", others="others"
)


def contestants(case, rival, precisions, init_batch):
  """Return the processes of a case by role, `(what, precision)`: first those of the rival, whose role begins with "".

  Args:
    case: config, what, batch and threads in a text.
    rival: folder with the release or another version.
    precisions: of ours; the rival computes in float32.
    init_batch: images that initialise the weights, at least; a batch is a part of them.
  """
  config, what, batch, threads = case.split()
  whats = ["evaluate", "evaluate_dynamic"] if what == "evaluate" else [what]
  precisions = {"start": ["float32"], "busy": ["float32", WITHOUT_LANES]}.get(what, precisions)
  make = lambda folder, what, precision: Contestant(
    folder,
    config,
    "train" if what == "busy" else what,
    int(batch),
    int(threads),
    precision.split()[0],
    max(init_batch, int(batch)),
    1 if precision == WITHOUT_LANES else int(threads),
  )
  rivals = {("", what): make(rival, what, "float32") for what in (whats[:1] if is_release(rival) else whats)}
  return rivals | {(p, what): make(ROOT, what, p) for what in whats for p in precisions}


def rows(case, turns, load):
  """Return a row for each of our processes, as dicts.

  Args:
    case: as in `contestants`.
    turns: by role, as in `contestants`, the list of what each turn took.
    load: load average before and after.
  """
  config, _, batch, threads = case.split()
  result = []
  for (precision, what), ours in turns.items():
    if precision:
      rival = turns.get(("", what)) or next(iter(turns.values()))
      own, before = _summary(ours, int(batch)), _summary(rival, int(batch))
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
          load=[round(value, 2) for value in load],
        )
      )
  return result


def _summary(turns, batch):
  """What a process took: medians over its turns."""
  taken = {name: statistics.median(turn[key] for turn in turns) for key, name in MEDIANS.items()}
  seconds = [turn["seconds"] for turn in turns]
  return dict(
    ms_image=1e3 * taken["seconds"] / batch,
    spread_percent=100 * (max(seconds) - min(seconds)) / taken["seconds"],
    peak_gib=max(turn["peak_bytes"] for turn in turns) / 2**30,
    **taken,
  )


def table(measured):
  """Yield the rows of the table of what was measured, as texts; of two values the second is the rival's."""
  yield (
    "model",
    "",
    "batch",
    "cores",
    "precision",
    "time, ratio",
    "s a turn",
    "spread",
    "CPU time, ratio",
    "CPU s",
    "switches, voluntary",
    "involuntary",
    "peak GiB",
    "memory, ratio",
    "turns",
    "load; other processes' cores",
  )
  for r in measured:
    both = lambda name, text: f"{text.format(r[name])}; {text.format(r[f'before_{name}'])}"
    yield (
      r["config"],
      r["what"].replace("_", ", "),
      str(r["batch"]),
      str(r["threads"]),
      r["precision"],
      f"{r['ratio']:.2f}",
      both("seconds", "{:.3g}"),
      both("spread_percent", "{:.0f} %"),
      f"{r['cpu_ratio']:.2f}",
      both("cpu_s", "{:.3g}"),
      both("switches_voluntary", "{:,.0f}"),
      both("switches_involuntary", "{:,.0f}"),
      both("peak_gib", "{:.2f}"),
      f"{r['peak_gib'] / r['before_peak_gib']:.2f}",
      str(r["turns"]),
      f"{r['load'][0]} to {r['load'][1]}; {r['others']:.1f}",
    )


def measure(case, rival, precisions, init_batch, rounds):
  """Return the rows of a case, measured now.

  Raises:
    RuntimeError: if a process ends early, or the models differ in their number of parameters.
  """
  load = [os.getloadavg()[0]]
  by_role = contestants(case, rival, precisions, init_batch)
  cores = os.sched_getaffinity(0)
  limit_cores(int(case.split()[-1]))  # of the processes too
  what = case.split()[1]
  if what == "start":
    turns = _starts(by_role, rounds)
  else:
    turns = _in_turns(by_role, rounds, BUSY if what == "busy" else (0,))
  os.sched_setaffinity(0, cores)
  return rows(case, turns, [*load, os.getloadavg()[0]])


def _in_turns(by_role, rounds, busy):
  """Turns of processes, by role; what is measured beside several numbers of busy processes has them in its name."""
  processes, turns = {}, {}
  try:
    for role, contestant in by_role.items():  # one after the other: they build with all cores
      processes[role] = TakesTurns(contestant.command)
    sizes = {process.content["parameters"] for process in processes.values()}
    if len(sizes) > 1:
      raise RuntimeError(f"the models differ: {sorted(sizes)} parameters")
    for count in busy:
      with busy_processes(count):
        measured = [{role: process.turn() for role, process in processes.items()} for _ in range(rounds)]
      for precision, what in by_role:
        named = what if len(busy) == 1 else f"{what}_{count}"
        turns[precision, named] = [one[precision, what] for one in measured]
  finally:
    for process in processes.values():
      process.end()
  return turns


def _starts(by_role, rounds):
  """As `_in_turns`, of whole commands."""
  measured = {role: [] for role in by_role}
  with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / "images.npz"
    first_step.write_images(data, next(iter(by_role.values())).config, START_IMAGES)
    for turn in range(rounds):
      for role, contestant in by_role.items():
        if is_release(contestant.folder):
          command, line = release.train_command(contestant.folder, contestant.batch, START_IMAGES), release.FIRST_STEP
        else:
          command, line = (
            first_step.train_command(
              contestant.folder,
              contestant.config,
              data,
              f"{folder}/{''.join(role)}{turn}",
              contestant.batch,
              START_IMAGES,
            ),
            first_step.PARTS["first_step_s"],
          )
        measured[role].append(first_step.arrivals(command, {"first_step_s": line})[1])
  return measured


def define_flags():
  """The script's flags; a function, as tests import this file."""
  flags.DEFINE_string("release", None, "Folder with a checkout of the authors' release.")
  flags.DEFINE_string("other", None, "Folder with a checkout of another version of this project.")
  flags.DEFINE_multi_string("case", None, "Config, what, batch, cores; may be given several times. Default: all.")
  flags.DEFINE_list("precision", ["float32", "bfloat16"], "Of ours.")
  flags.DEFINE_integer("rounds", 7, "Turns of each process; of a start, whose turns are long, at most three.")
  flags.DEFINE_integer("init_batch", 32, "Images that initialise the weights before the turns.")
  flags.DEFINE_bool("onednn", True, "Whether TensorFlow has oneDNN's kernels, as in our programs, for both.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  flags.mark_flags_as_mutual_exclusive(["release", "other"], required=True)


def main(argv):
  del argv
  rival = os.path.abspath(FLAGS.release or FLAGS.other)
  if FLAGS.release and not is_release(rival):
    raise app.UsageError(f"--release takes a folder with flows/run_cifar.py, which {rival} has not")
  cases = FLAGS.case or [case for case in CASES if case.startswith("cifar10 ") or not FLAGS.release]
  if FLAGS.release and not all(case.startswith("cifar10 ") for case in cases):
    raise app.UsageError(f"the release is raced in cifar10 only, got --case={FLAGS.case}")
  os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(FLAGS.onednn))  # of the processes, which import TensorFlow
  measured = []
  for case in cases:
    rounds = min(FLAGS.rounds, 3) if "start" in case.split() else FLAGS.rounds
    found = measure(case, rival, FLAGS.precision, FLAGS.init_batch, rounds)
    print(*found, sep="\n", file=sys.stderr, flush=True)
    measured += found
    write_json(FLAGS.output, measured)  # each is kept, should the next one fail
  print(markdown(list(table(measured))))


if __name__ == "__main__":
  define_flags()
  app.run(main)

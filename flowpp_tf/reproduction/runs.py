"""The runs of an ablation as processes of `bin/train`: each has its folder, and is resumed by the same call.

OUTPUT/runs/full_seed0.flags      the recipe: `bin/train --flagfile=... --workdir=...` is the run
OUTPUT/runs/full_seed0.log        what the process has printed
OUTPUT/runs/full_seed0/           the run, see training/workdir.py
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from flowpp_tf.config import Recipe
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import write_file
from flowpp_tf.reproduction.variants import parameters_of, settings_of

_POLL = 0.2  # seconds between looks at the processes
_SAVED = 3  # exit code of a run that was stopped and saved
_ROOT = pathlib.Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of a variant with a seed.

  Attributes:
    data: name of the data set, one of `BASES`.
    variant: name, one of `VARIANTS`.
    seed: of initial weights, order of the data, and noise.
    folder: folder of all runs.
    more: settings in place of those of the recipe.
  """

  data: str
  variant: str
  seed: int
  folder: pathlib.Path
  more: Mapping[str, Any]

  @property
  def name(self) -> str:
    """Name of the run's files."""
    return f"{self.variant}_seed{self.seed}"

  @property
  def workdir(self) -> pathlib.Path:
    """Working directory of the run."""
    return self.folder / self.name

  @property
  def parameters(self) -> int:
    """Number of parameters of the model."""
    return parameters_of(*settings_of(self.data, self.variant))

  def flags(self) -> list[str]:
    """Return the flags of `bin/train` that make the run: the recipe as a flag file."""
    config, settings = settings_of(self.data, self.variant)
    recipe = Recipe.load(config)
    settings = dict(recipe.replace(**settings).replace(**self.more, seed=self.seed).settings)
    return [f"--config={config}", *(f"--{name}={_text(value)}" for name, value in settings.items())]

  def rows(self) -> list[dict[str, Any]]:
    """Return the rows of its metrics, as far as the run has come."""
    path = self.workdir / "metrics.jsonl"
    if not path.exists():
      return []
    rows = [gate.parse_json(line) for line in gate.read_text(path).splitlines()]
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]

  def test(self) -> float | None:
    """Return the single-sample bound of the test images in bits/dim, or None if the run is not complete."""
    path = self.workdir / "evaluation.json"
    if not path.exists():
      return None
    bounds = gate.read_json(path)["test"]["bounds"]
    return float(bounds[0]["bits_per_dim"])


def _text(value):
  return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def plan(
  data: str, variants: Sequence[str], seeds: int, output: pathlib.Path, more: Mapping[str, Any] | None = None
) -> list[Run]:
  """Return the runs of an ablation, all variants of the first seed first, so that a table of one seed is there early.

  Raises:
    InputError (a ValueError): for an unknown data set or variant, and for wrong settings.
  """
  folder = output / "runs"
  runs = [Run(data, variant, seed, folder, more or {}) for seed in range(seeds) for variant in variants]
  for run in runs[: len(variants)]:
    run.flags()  # raises if something is wrong
  return runs


def complete(
  runs: Sequence[Run], jobs: int, done: Callable[[], object], say: Callable[[str], None] = print
) -> list[str]:
  """Complete the runs in their order, so many at a time; return what failed, a line each.

  Each process gets its share of the cores. A signal stops the processes, which save their state.

  Args:
    runs: those that are complete are passed over.
    jobs: number of processes at a time.
    done: called after each run.
    say: called with each line for the user.

  Raises:
    Stopped: if a signal asked to stop.
  """
  waiting = [run for run in runs if run.test() is None]
  present = len(runs) - len(waiting)
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
  shares = [cores[i::jobs] for i in range(jobs)] if len(cores) >= jobs else [cores] * jobs
  running: dict[int, tuple[Run, subprocess.Popen]] = {}
  failures: list[str] = []
  with _signals(running) as received:
    while (waiting and not received) or running:
      for slot in range(jobs):
        if slot not in running and waiting and not received:
          run = waiting.pop(0)
          running[slot] = run, _start(run, shares[slot])
          say(f"{run.name}: started, {len(runs) - len(waiting)} of {len(runs)}")
      time.sleep(_POLL)
      for slot, (run, process) in [*running.items()]:
        code = process.poll()
        if code is None:
          continue
        del running[slot]
        test = run.test()
        if code == 0 and test is not None:
          present += 1
          say(f"{run.name}: test {test:.4f} bits/dim; {present} of {len(runs)} runs are complete")
        elif code != _SAVED or not received:
          failures.append(f"{run.name} failed: {_last_line(run)}")
          say(failures[-1])
        done()
  if received:
    raise Stopped
  return failures


class Stopped(Exception):
  """A signal asked the processes to stop; their states are saved."""


def _start(run, cores):
  run.folder.mkdir(parents=True, exist_ok=True)
  recipe = run.folder / f"{run.name}.flags"
  text = "\n".join([f"# bin/train --flagfile={shlex.quote(str(recipe))} --workdir={run.workdir}", *run.flags()])
  write_file(recipe, f"{text}\n")
  command = [sys.executable, "-m", "flowpp_tf", "train", f"--flagfile={recipe}", f"--workdir={run.workdir}"]
  path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
  with open(run.folder / f"{run.name}.log", "ab") as log:
    process = subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      env={**os.environ, "PYTHONPATH": path},
      start_new_session=True,  # Ctrl-C is for this process, which tells the others
    )
  if cores:
    with contextlib.suppress(OSError):
      os.sched_setaffinity(process.pid, cores)
  return process


@contextlib.contextmanager
def _signals(running: Mapping[int, tuple[Run, subprocess.Popen]]) -> Iterator[list[int]]:
  """Pass signals on to the processes; yield the list of those received. A second one stops them without saving."""
  received: list[int] = []

  def on_signal(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)
    for _, process in running.values():
      with contextlib.suppress(OSError):
        process.send_signal(signal.SIGTERM if len(received) == 1 else signal.SIGINT)

  numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
  before = {number: signal.signal(number, on_signal) for number in numbers}
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _last_line(run):
  try:
    lines = gate.read_bytes(run.folder / f"{run.name}.log").decode(errors="replace").split("\n")
  except OSError as error:
    raise InputError(f"the log of {run.name} cannot be read: {error.strerror}") from None
  return next((line.strip() for line in lines[::-1] if line.strip()), "it printed nothing")

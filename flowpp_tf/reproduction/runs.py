"""The runs of an ablation as processes of `bin/train`: each has its folder, and is resumed by the same call.

OUTPUT/runs/full_seed0.flags      the recipe: `bin/train --flagfile=... --workdir=...` is the run
OUTPUT/runs/full_seed0.log        what its newest process has printed
OUTPUT/runs/full_seed0/           the run, see training/workdir.py
OUTPUT/runs/full_seed0.json       its test bound, once `bin/train` has ended
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import math
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
from flowpp_tf.core.environment import usable_cores
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import write_file, write_json
from flowpp_tf.io.model_folders import EVALUATION, METRICS
from flowpp_tf.reproduction.variants import parameters_of, settings_of

_POLL = 0.2  # seconds between looks at the processes
# Exit codes of a run that was stopped: it has saved its state, or had none; below 0 it did not answer signals yet.
_STOPPED = {3, *(code for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) for code in (128 + n, -n))}
_MAY_DIFFER = ("--data_dir=",)  # of a run that is resumed
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

  def check(self) -> None:
    """Raise an `InputError` if the folder has the run with other flags: its figures would be those of another run."""
    if not self._recipe.exists():
      return
    with gate.reading(self._recipe):
      lines = gate.read_text(self._recipe).splitlines()
    flags_of = lambda lines: {line for line in lines if line.startswith("--") and not line.startswith(_MAY_DIFFER)}
    before, now = flags_of(lines), flags_of(self.flags())
    if before != now:
      was, wanted = " ".join(sorted(before - now)) or "no such flags", " ".join(sorted(now - before)) or "none"
      raise InputError(f"{str(self._recipe)!r} has {was} where this command has {wanted}; give another --output")

  def rows(self) -> list[dict[str, Any]]:
    """Return the rows of its metrics that can be read, as far as the run has come; null, not finite, is NaN."""
    path, rows = self.workdir / METRICS, []
    if path.exists():
      with gate.reading(path):
        lines = gate.read_text(path).splitlines()
      for line in lines:
        with contextlib.suppress(ValueError):  # the process may have been killed within a line
          rows.append(gate.parse_json(line))
    rows = [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]

  def test(self) -> float | None:
    """Return the single-sample bound of the test images, bits/dim, NaN if not finite; None of a run that goes on."""
    if not self._result.exists():
      return None
    with gate.reading(self._result):
      test = gate.read_json(self._result)["test"]
      return math.nan if test is None else float(test)

  def start(self, cores: Sequence[int]) -> subprocess.Popen:
    """Return a process of `bin/train` that begins or resumes the run, on some cores."""
    self.folder.mkdir(parents=True, exist_ok=True)
    text = [f"# bin/train --flagfile={shlex.quote(str(self._recipe))} --workdir={self.workdir}", *self.flags()]
    write_file(self._recipe, "\n".join([*text, ""]))
    command = [sys.executable, "-m", "flowpp_tf", "train", f"--flagfile={self._recipe}", f"--workdir={self.workdir}"]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    with open(self._log, "wb") as log:
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for this process, which tells the others
      )
    if hasattr(os, "sched_setaffinity"):
      with contextlib.suppress(OSError):
        os.sched_setaffinity(process.pid, cores)
    return process

  def finish(self) -> float:
    """Store the test bound of a run that has just ended, and return it."""
    path = self.workdir / EVALUATION
    with gate.reading(path):
      test = gate.read_json(path)["test"]["bounds"][0]["bits_per_dim"]
    write_json(self._result, {"test": test})
    return math.nan if test is None else float(test)

  def why(self, code: int) -> str:
    """Return why its process ended: the last line that it printed, and its exit code or signal."""
    ended = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    with gate.reading(self._log):
      lines = gate.read_bytes(self._log).decode(errors="replace").splitlines()
    return f"{next((line.strip() for line in lines[::-1] if line.strip()), 'it printed nothing')} ({ended})"

  @property
  def _recipe(self):
    return self.folder / f"{self.name}.flags"

  @property
  def _log(self):
    return self.folder / f"{self.name}.log"

  @property
  def _result(self):
    return self.folder / f"{self.name}.json"


def _text(value):
  return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def plan(
  data: str, variants: Sequence[str], seeds: int, output: pathlib.Path, more: Mapping[str, Any] | None = None
) -> list[Run]:
  """Return the runs of an ablation, all variants of the first seed first, so that a table of one seed is there early.

  Raises:
    InputError (a ValueError): for an unknown data set or variant, for wrong settings, and if the folder has runs of
      other settings.
  """
  folder = output / "runs"
  runs = [Run(data, variant, seed, folder, more or {}) for seed in range(seeds) for variant in variants]
  for run in runs[: len(variants)]:
    run.flags()  # raises if something is wrong
  for run in runs:
    run.check()
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
  cores = usable_cores()
  shares = [cores[i::jobs] for i in range(jobs)] if len(cores) >= jobs else [cores] * jobs
  running: dict[int, tuple[Run, subprocess.Popen]] = {}
  told: dict[int, int] = {}  # how many signals a process has got
  failures: list[str] = []
  with _signals() as received, _ended(running):
    while (waiting and not received) or running:
      for slot in range(jobs):
        if slot not in running and waiting and not received:
          run = waiting.pop(0)
          running[slot], told[slot] = (run, run.start(shares[slot])), 0
          say(f"{run.name}: started, {len(runs) - len(waiting)} of {len(runs)}")
      time.sleep(_POLL)
      for slot, (run, process) in [*running.items()]:
        code = process.poll()
        if code is None:
          if told[slot] < min(len(received), 2):  # the second stops it without saving
            process.send_signal((signal.SIGTERM, signal.SIGINT)[told[slot]])
            told[slot] += 1
          continue
        del running[slot]
        if code == 0:
          present += 1
          say(f"{run.name}: test {run.finish():.4f} bits/dim; {present} of {len(runs)} runs are complete")
        elif not (received and code in _STOPPED):
          failures.append(f"{run.name} failed: {run.why(code)}")
          say(failures[-1])
        done()
  if received:
    raise Stopped(failures)
  return failures


class Stopped(Exception):
  """A signal asked the processes to stop; `failures` has a line for each that did not end as asked, with all saved."""

  def __init__(self, failures: Sequence[str]) -> None:
    super().__init__("stopped by a signal")
    self.failures = list(failures)


@contextlib.contextmanager
def _ended(running: Mapping[int, tuple[Run, subprocess.Popen]]) -> Iterator[None]:
  """Stop the processes that run when the context ends by an error, and wait for them: they save their state."""
  try:
    yield
  finally:
    for _, process in running.values():
      process.terminate()
    for _, process in running.values():
      process.wait()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Keep signals from ending this process; yield the list of those received."""
  received: list[int] = []

  def on_signal(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)

  numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
  before = {number: signal.signal(number, on_signal) for number in numbers}
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)

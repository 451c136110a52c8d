"""Fuzz one of the targets: guided by coverage where atheris is installed, else by mutations of the seeds.

    python tests/hardening/fuzz.py archive --executions=100000     # --plain for mutations only; --seed=2 for others

An input that is answered wrongly, or takes more than its budget of memory or time, ends the run and is kept in
tests/data/fuzz/TARGET, where test_fuzz.py runs it from then on; --keep_going writes it and goes on.
"""

import argparse
import hashlib
import pathlib
import random
import resource
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
MOST_SECONDS = 10
MOST_GROWTH = 256 << 10  # KiB by which an execution may raise the peak memory of the process
MOST_MEMORY = 1 << 30  # bytes of addresses beyond those in use when the run begins


class Guard:
  """Runs a target on inputs, and turns hangs and memory beyond the budget into failures."""

  def __init__(self, target):
    self.target, self.accepted, self.executions, self.slowest = target, 0, 0, 0.0
    for data in target.corpus[: len(target.seeds())]:  # what is made once, or grows once, does so now
      target(data)
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    self._limit = size + MOST_MEMORY

  def __enter__(self):
    self._before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (self._limit, self._before[1]))
    return self

  def __exit__(self, *error):
    resource.setrlimit(resource.RLIMIT_AS, self._before)

  def __call__(self, data):
    from hardening.faults import ends_within

    self.executions += 1
    peak, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with ends_within(MOST_SECONDS):
      self.accepted += self.target(data)
    self.slowest = max(self.slowest, time.monotonic() - begun)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if grown > MOST_GROWTH:
      raise RuntimeError(f"{grown >> 10} MiB more memory")

  def report(self, seconds):
    return (
      f"{self.target.name}: {self.executions} executions in {seconds:.0f} s, {self.accepted} accepted, "
      f"the slowest took {self.slowest:.2f} s"
    )


def mutations(guard, executions, seed, failed):
  """Run so many mutations; `failed(data, error)` is called for each failure."""
  rng, pool = random.Random(seed), list(guard.target.corpus)
  for data in pool:
    _run(guard, data, failed)
  for _ in range(executions):
    data = rng.choice(pool)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
      data = guard.target.mutate(data, rng)
    _run(guard, data, failed)


def _run(guard, data, failed):
  try:
    guard(data)
  except KeyboardInterrupt:
    raise
  except BaseException as error:  # of any kind: that is what is looked for
    failed(data, error)


def _guided(guard, options, failed, report):
  """Let atheris choose; it ends the process without a word of ours."""
  import atheris

  rng = random.Random(options.seed)

  def mutate(data, most, seed):
    if rng.randrange(2):
      return guard.target.mutate(data, rng)[:most]
    return atheris.Mutate(data, most)

  corpus = guard.target.folder / "corpus"
  corpus.mkdir()
  for i, data in enumerate(guard.target.corpus):
    (corpus / str(i)).write_bytes(data)
  arguments = ["fuzz", f"-runs={options.executions}", f"-seed={options.seed}", "-timeout=60", "-rss_limit_mb=0"]
  arguments += ["-print_final_stats=0", "-verbosity=0", f"-max_len={1 << 16}", str(corpus)]

  def one(data):
    _run(guard, data, failed)
    if guard.executions == options.executions:
      report()

  atheris.Setup(arguments, one, custom_mutator=mutate)
  atheris.Fuzz()


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("target")
  parser.add_argument("--executions", type=int, default=10_000)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--plain", action="store_true")
  parser.add_argument("--keep_going", action="store_true")
  parser.add_argument("--found", default=None, help="Folder for what is found; tests/data/fuzz/TARGET if not given.")
  options = parser.parse_args()
  sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
  from support import environment

  environment.isolate()
  guided = not options.plain
  if guided:
    try:
      import atheris
    except ImportError:
      guided = False
      print("atheris is not installed: mutations only")
  if guided:
    with atheris.instrument_imports(include=["flowpp_tf"], enable_loader_override=False):
      _import_all()
  from hardening.targets import TARGETS

  target = TARGETS[options.target]()
  found = pathlib.Path(options.found or ROOT / "tests" / "data" / "fuzz" / target.name)
  kinds, begun = {}, time.monotonic()

  def failed(data, error):
    frames, trace = [], error.__traceback__
    while trace is not None:
      frames.append(f"{pathlib.Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
      trace = trace.tb_next
    kind = f"{type(error).__name__} at {frames[-1]}"
    kinds[kind] = kinds.get(kind, 0) + 1
    if kinds[kind] > 1:
      return
    found.mkdir(parents=True, exist_ok=True)
    path = found / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    print(
      f"FOUND {path}: {type(error).__name__}: {' '.join(str(error).split())[:500]} ({' '.join(frames[-4:])})",
      flush=True,
    )
    if not options.keep_going:
      raise SystemExit(1)

  def report():
    print(guard.report(time.monotonic() - begun), f"{sum(kinds.values())} failures: {kinds}", flush=True)

  with Guard(target) as guard:
    if guided:
      _guided(guard, options, failed, report)
    else:
      mutations(guard, options.executions, options.seed, failed)
      report()


def _import_all():
  """Import what the targets import, to be instrumented."""
  import importlib

  for name in (
    "compression",
    "compression.files.pictures",
    "data.folder",
    "data.images",
    "demo.card",
    "evaluation.record",
    "evaluation.typicality",
    "io.weights_file",
    "pretrained.presets",
    "config.recipe",
    "training.workdir",
    "programs.command",
    "programs.train",
  ):
    importlib.import_module(f"flowpp_tf.{name}")


if __name__ == "__main__":
  main()

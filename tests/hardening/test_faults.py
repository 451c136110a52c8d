"""A fault at every call: what is there afterwards is old or new, one line says why, and the next call succeeds.

pytest --faults=all -m slow tests/hardening/test_faults.py     # each call of each writer; the default takes a spread

The same once more for the calls that C code makes, in a process of its own.
"""

import contextlib
import errno
import itertools
import os
import shutil
import time
from unittest import mock

import numpy as np
import pytest

from flowpp_tf.core.errors import InputError
from hardening.fault_writers import HIDDEN, WRITERS
from hardening.faults import CLAIM, ERRORS, MEMORY, Faults, Hang, ends_within, open_files
from hardening.native_faults import NativeFaults, library
from support.files import contents
from support.programs import ROOT, finish, start

MOST_SECONDS = 10  # beyond the time of the same work without a fault
_NATIVE = "native" if "faults.so" in os.environ.get("LD_PRELOAD", "") else ""  # which calls fail in this process
_OF_C_CODE = ["store", "again"]  # parts of the names of the writers of the short form
_DEAD = "999999999"  # a process that is not there, in place of this one in names of temporary files


def spread(cases, most):
  return [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).astype(int))]


def fresh(before, folder):
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(before, folder, symlinks=True)


def leftovers(folder):
  return [name for name in contents(folder) if any(part.startswith(HIDDEN) for part in name.split("/"))]


def _move_back(folder):
  """Give an old directory its name again, as the next write does where a new one did not take its place."""
  for old in folder.rglob(".old.*"):
    target = old.with_name(old.name.removeprefix(".old."))
    if not target.exists():
      old.rename(target)


def check_state(writer, folder, allowed, what):
  state = writer.look(folder)
  for name in {*state, *(name for one in allowed for name in one)}:
    assert any(state.get(name) == one.get(name) for one in allowed), f"{what}: {name} is neither old nor new"


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_after_a_fault_at_any_call_files_are_old_or_new_and_the_next_call_succeeds(writer, request, tmp_path):
  before, folder = tmp_path / "before", tmp_path / "work"
  before.mkdir()
  writer.prepare(before)
  fresh(before, folder)
  writer.work(folder)  # what is made once is made now
  fresh(before, folder)
  allowed = [writer.look(folder)]
  kills = tmp_path / "kills"
  counted = NativeFaults(folder) if _NATIVE else contextlib.nullcontext()
  with _Snapshots(folder, kills) as faults, counted:
    once = time.monotonic()
    writer.work(folder)
    once = time.monotonic() - once
  faults = counted if _NATIVE else faults
  new = writer.look(folder)
  assert not leftovers(folder) and not open_files(folder)
  if writer.between:
    for path in kills.iterdir():
      with contextlib.suppress(InputError, ValueError, OSError):
        allowed.append(writer.look(path))
  allowed.append(new)
  cases = [
    (n, error, lasting)
    for n, (kind, _) in enumerate(faults.calls)
    for error in ERRORS[kind]
    for lasting in ((False, True) if error in (errno.ENOSPC, errno.EIO, CLAIM) else (False,))
  ]
  if writer.slow:  # another kind of fault at each call
    by_call = [(n, [*of_call]) for n, of_call in itertools.groupby(cases, key=lambda case: case[0])]
    cases = [of_call[n % len(of_call)] for n, of_call in by_call]
  every = request.config.getoption("--faults") == "all"
  most = 2 if writer.slow else 4
  for n, error, lasting in cases if every else spread(cases, most):
    what = f"{writer.name}, call {n}: {faults.calls[n]} fails with {errno.errorcode.get(error, error)}, {lasting=}"
    fresh(before, folder)
    outcome, kinds = _outcome(writer, folder, n, error, lasting, once, what)
    if lasting and "rename" in kinds:  # as the next write does, when it can
      _move_back(folder)
    # Where folders cannot be opened any more, none can be removed; nothing reads what has such a name.
    left = [] if lasting and "open to read" in kinds else leftovers(folder)
    assert not left, f"{what}: {left} are left"
    check_state(writer, folder, allowed, what)
    # A run goes on when its best weights cannot be written: the last that could be stay.
    _check_next_call(writer, folder, [new, *(allowed if writer.between and outcome == "went on" else [])], what)
  snapshots = [] if _NATIVE else sorted(kills.iterdir(), key=lambda path: int(path.name))
  for path in snapshots if every else spread(snapshots, most // 2):
    what = f"{writer.name}, killed before call {path.name}: {faults.calls[int(path.name)]}"
    fresh(path, folder)
    _check_next_call(writer, folder, [new], what)
    if not writer.between:
      _move_back(path)
      check_state(writer, path, allowed, what)


@pytest.mark.slow
@pytest.mark.needs("cc")
@pytest.mark.skipif(bool(_NATIVE), reason="this is that process")
def test_after_a_fault_at_any_call_of_c_code_too(request, tmp_path):
  every = request.config.getoption("--faults") == "all"
  options = ["--faults=all"] if every else ["-k", " or ".join(_OF_C_CODE)]
  command = ["-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *options, __file__]
  finish(start(command, cwd=ROOT, LD_PRELOAD=str(library(tmp_path))))


def _outcome(writer, folder, n, error, lasting, once, what):
  """What the work says of a fault, and the kinds of calls that failed: threads may change their order."""
  with (NativeFaults if _NATIVE else Faults)(folder, n, error, lasting) as faults:
    try:
      with ends_within(MOST_SECONDS + 5 * once):
        writer.work(folder)
      outcome = "went on"
    except Hang:
      pytest.fail(f"{what}: hangs")
    except (InputError, OSError) as raised:
      assert "\n" not in str(raised), what
      outcome = "refused"
    except MemoryError:  # of which the last line of a program says that memory is short
      assert error == MEMORY, what
      outcome = "refused"
    except Exception as raised:
      raise AssertionError(f"{what}: {type(raised).__name__}: {raised}") from raised
  assert faults.failed or len(faults.calls) <= n, what
  return outcome, faults.failed


def _check_next_call(writer, folder, right, what):
  writer.work(folder)
  state = writer.look(folder)
  for name in {*state, *right[0]}:
    assert any(state.get(name) == one.get(name) for one in right), f"{what}: after the next call, {name} is wrong"


class _Snapshots(Faults):
  """Copies the folder before each call: what a process leaves that is killed there."""

  def __init__(self, folder, kills):
    super().__init__(folder)
    self._folder, self._kills = folder, kills
    kills.mkdir()

  def call(self, kind, where):
    number = len(self.calls)
    super().call(kind, where)
    if kind in ("open to read", "read", "claim"):
      return
    with mock.patch.object(self, "_root", "/nowhere"):  # calls of the copy are not counted
      copy = shutil.copytree(self._folder, self._kills / str(number), symlinks=True)
      for path in sorted(copy.rglob(f".tmp.{os.getpid()}.*"), reverse=True):
        path.rename(path.with_name(path.name.replace(str(os.getpid()), _DEAD, 1)))

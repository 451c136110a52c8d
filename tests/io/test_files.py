"""Files that are whole or not there."""

import os
import subprocess
import time

import numpy as np
import pytest

from flowpp_tf.io import files
from flowpp_tf.io.files import create_array, remove_leftovers, replace_directory, replace_file


def test_a_file_that_cannot_be_written_leaves_what_was_there_and_nothing_else(tmp_path):
  path = tmp_path / "file"
  replace_file(path, lambda temporary: temporary.write_text("old"))

  def fail(temporary):
    temporary.write_text("half")
    raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    replace_file(path, fail)
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_leftovers_that_nobody_writes_any_more_are_removed(tmp_path):
  kept, file, folder = (tmp_path / f".tmp.{i}.a" for i in range(3))
  for path in (kept, file):
    path.touch()
  folder.mkdir()
  (folder / "file").touch()
  (tmp_path / "mine").touch()
  for path in (file, folder, tmp_path / "mine"):
    os.utime(path, (0, time.time() - 2 * 3600))
  remove_leftovers(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "mine"]


@pytest.mark.parametrize("write", [replace_file, replace_directory])
def test_the_first_write_into_a_folder_removes_what_dead_processes_of_this_machine_left(write, tmp_path):
  with subprocess.Popen(["true"]) as dead:
    pass
  machine = files._MACHINE
  names = [f".tmp.{dead.pid}.{machine}.a.fpp", f".tmp.{os.getpid()}.{machine}.b.fpp", f".tmp.{dead.pid}.elsewhere.c"]
  names += [f".tmp.{dead.pid}.a", ".tmp.notes", "mine"]
  for name in names:
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
  (tmp_path / f".tmp.{dead.pid}.{machine}.folder").mkdir()
  write(tmp_path / "new", lambda temporary: temporary.touch())
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "new"])


def test_an_array_for_which_the_disk_has_no_room_is_an_error_before_the_first_write(tmp_path):
  with pytest.raises((OSError, OverflowError)):
    create_array(tmp_path / "a.npy", np.float32, (1 << 48,))


def test_an_old_directory_is_moved_aside_and_comes_back_if_the_new_one_does_not(monkeypatch, tmp_path):
  target, replace = tmp_path / "directory", os.replace
  for text in ("old", "new"):
    replace_directory(target, lambda temporary, text=text: (temporary / "file").write_text(text))
  assert (target / "file").read_text() == "new" and [*tmp_path.iterdir()] == [target]

  def only_old_ones(source, destination):
    if source.name.startswith(".tmp."):
      raise OSError("no")
    replace(source, destination)

  with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
    patch.setattr(files.os, "replace", only_old_ones)
    replace_directory(target, lambda temporary: None)
  assert (target / "file").read_text() == "new" and [*tmp_path.iterdir()] == [target]
  target.rename(tmp_path / ".old.directory")  # killed right there
  with pytest.raises(ZeroDivisionError):
    replace_directory(target, lambda temporary: 1 / 0)
  assert (target / "file").read_text() == "new" and [*tmp_path.iterdir()] == [target]


def test_a_link_to_a_directory_stays_and_what_is_no_directory_is_not_replaced(tmp_path):
  real, link, file = tmp_path / "real", tmp_path / "link", tmp_path / "file"
  real.mkdir()
  link.symlink_to(real)
  file.write_text("mine")
  write = lambda temporary: (temporary / "new").touch()
  replace_directory(link, write)
  assert link.is_symlink() and [path.name for path in real.iterdir()] == ["new"]
  with pytest.raises(FileExistsError, match="is not a directory"):
    replace_directory(file, write)
  assert file.read_text() == "mine" and {*tmp_path.iterdir()} == {real, link, file}

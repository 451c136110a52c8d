"""The folder of decompression: whole or NAME.partial, completed to the same bytes, held by one process; names."""

import concurrent.futures
import errno
import io
import json
import os
import pathlib
import shutil
import signal
import threading
from unittest import mock
import zlib

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf.compression import archive, threads
from flowpp_tf.compression.codec import Codec
from flowpp_tf.compression.files import folder as folders
from flowpp_tf.compression.files import pictures, reading
from flowpp_tf.compression.files.folder import OutputFolder
from flowpp_tf.programs import process
from support import programs
from support.archives import example, files_archive, pack_files, small_codec
from support.files import contents

pytestmark = pytest.mark.needs("constriction")


def verbatim(name, data=b"hello"):
  return pictures.ImageFile(name, data=data)


def written(partial):
  """The names of the files in a NAME.partial, which may be written at the same time."""
  return sorted(set(os.listdir(partial)) - {".flowpp_tf.lock", ".flowpp_tf.unfinished"})


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  """A folder with an archive of 40 files, with its model, in several segments: `a.fpp`, and what it gives: `right`."""
  folder, rng = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
  source = folder / "source"
  source.mkdir()
  for i in range(40):
    if i % 4:
      (source / f"{i:02}.txt").write_bytes(rng.bytes(50))
    else:
      Image.fromarray(rng.integers(90, 110, (9, 5 + i // 4)).astype(np.uint8)).save(source / f"{i:02}.png")
  files = [reading.read_picture(source, name, 1) for name in sorted(os.listdir(source))]
  (folder / "a.fpp").write_bytes(pack_files(files, embed_model=True, segment_images=16))
  assert len(archive.ArchiveReader(io.BytesIO((folder / "a.fpp").read_bytes())).index()) > 4
  result = programs.call("decompress", "a.fpp", "--output=right", cwd=folder)
  assert result.code == 0 and "wrote right: 40 files" in result.out, result
  assert not (folder / "right.partial").exists() and len(contents(folder / "right")) == 40
  return folder


def complete(stored, folder, output="out"):
  """Call the program again: now the folder has the files of the archive."""
  programs.call("decompress", stored / "a.fpp", f"--output={output}", cwd=folder).ok()
  assert contents(folder / output) == contents(stored / "right")


def fail_at(monkeypatch, number):
  """Let the n-th file find no room on the disk."""
  write = OutputFolder.write

  def failing(self, file):
    if len(self.paths) == number:
      raise OSError(errno.ENOSPC, "No space left on device")
    return write(self, file)

  monkeypatch.setattr(OutputFolder, "write", failing)


@pytest.mark.parametrize("number", [0, 1, 13, 30, 39])
def test_a_full_disk_leaves_what_can_be_resumed_to_the_same_bytes(stored, monkeypatch, number):
  output = f"out{number}"
  with monkeypatch.context() as patch:
    fail_at(patch, number)
    result = programs.call("decompress", "a.fpp", f"--output={output}", cwd=stored)
  assert result.code == 2 and len(result.error.splitlines()) == 1
  assert "No space left on device" in result.error and "the same command writes the rest" in result.error
  assert not (stored / output).exists() and (stored / f"{output}.partial").exists()
  finished = {path: (stored / f"{output}.partial" / path).stat() for path in written(stored / f"{output}.partial")}
  assert len(finished) == number
  result = programs.call("decompress", "a.fpp", f"--output={output}", cwd=stored)
  assert result.code == 0 and f"wrote {output}: 40 files" in result.out, result
  assert contents(stored / output) == contents(stored / "right")
  assert not (stored / f"{output}.partial").exists()
  for path, before in finished.items():  # not written again
    assert os.path.samestat(before, (stored / output / path).stat()), path


def test_a_full_disk_stops_the_threads_that_decode(stored, monkeypatch):
  """The process waits for its threads, which would decode whole segments for nobody."""
  pytest.importorskip("threadpoolctl")  # without it there are no threads
  first = next(archive.ArchiveReader(io.BytesIO((stored / "a.fpp").read_bytes())).segments())
  began, stopped, given_up = threading.Event(), threading.Event(), threading.Event()

  def decode_later_ones_for_ever(codec, fields, places):
    if places == first.places:
      assert began.wait(60)
      return decode_segment(codec, fields, places)
    began.set()
    try:
      while not given_up.wait(0.01):
        threads.check_stopped()
    except concurrent.futures.CancelledError:
      stopped.set()
      raise

  decode_segment = archive.decode_segment
  fail_at(monkeypatch, 0)
  monkeypatch.setattr(archive, "decode_segment", decode_later_ones_for_ever)
  monkeypatch.setattr(threads, "CORES", 2)
  # Threads for segments of a few small images too.
  monkeypatch.setattr(Codec, "pays_in_threads", lambda codec, count: True)
  result = programs.call("decompress", "a.fpp", "--output=stopped", cwd=stored)
  assert result.code == 2 and "No space left on device" in result.error
  in_time = stopped.wait(60)
  given_up.set()
  assert in_time


CAUSES = {
  "budget": (fpp.InputError("more than 100 times as many (--max_output raises the limit)"), "--max_output raises"),
  "disk": (OSError(errno.EIO, "Input/output error"), "'a.fpp' cannot be read: Input/output error"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_ends_reading_in_the_middle_is_named_and_can_be_resumed(stored, monkeypatch, cause):
  error, message = CAUSES[cause]
  segment_at, calls = archive.ArchiveReader._segment_at, []

  def failing(self, position):
    calls.append(position)
    if len(calls) == 4:
      raise error
    return segment_at(self, position)

  with monkeypatch.context() as patch:
    patch.setattr(archive.ArchiveReader, "_segment_at", failing)
    result = programs.call("decompress", "a.fpp", f"--output={cause}", cwd=stored)
  assert result.code == 2 and len(result.error.splitlines()) == 1
  assert message in result.error and f"is in {cause}.partial; the same command writes the rest" in result.error, result
  complete(stored, stored, cause)


def test_an_archive_of_arrays_that_cannot_be_read_is_not_called_one_that_cannot_be_written(tmp_path, monkeypatch):
  (tmp_path / "a.fpp").write_bytes(example("uniform"))
  failing = mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
  monkeypatch.setattr(archive.ArchiveReader, "_segment_at", failing)
  line = programs.refusal("decompress", "a.fpp", "--output=a.npy", cwd=tmp_path)
  assert "'a.fpp' cannot be read: Input/output error" in line


@pytest.fixture
def partial(stored, monkeypatch, tmp_path):
  """What is left of a decompression to `out` after 30 files."""
  with monkeypatch.context() as patch:
    fail_at(patch, 30)
    programs.call("decompress", stored / "a.fpp", "--output=out", cwd=tmp_path)
  return tmp_path / "out.partial"


def test_a_file_that_is_gone_or_was_not_finished_is_written_again(stored, tmp_path, partial):
  (partial / written(partial)[0]).unlink()
  (partial / ".flowpp_tf.unfinished").write_bytes(b"of a process that was killed")
  complete(stored, tmp_path)


@pytest.mark.parametrize("content", [b"x", None], ids=["shorter", "of the same size"])
def test_a_file_that_differs_is_named_and_never_overwritten(stored, tmp_path, partial, content):
  changed = partial / written(partial)[7]
  content = content or bytes(changed.stat().st_size)
  changed.write_bytes(content)
  result = programs.call("decompress", stored / "a.fpp", "--output=out", cwd=tmp_path)
  assert result.code == 2 and len(result.error.splitlines()) == 1
  assert f"{str(changed)!r} exists with other bytes than in the archive" in result.error
  assert changed.read_bytes() == content and not (tmp_path / "out").exists()
  changed.unlink()
  complete(stored, tmp_path)


def test_files_of_something_else_do_not_become_those_of_the_archive(stored, tmp_path, partial):
  (partial / "stray").write_bytes(b"of somebody else")
  result = programs.call("decompress", stored / "a.fpp", "--output=out", cwd=tmp_path)
  line = f"{str(partial / 'stray')!r} is not one of the files that this command writes"
  assert result.code == 2 and line in result.error
  assert (partial / "stray").exists() and not (tmp_path / "out").exists()
  (partial / "stray").unlink()
  result = programs.call("decompress", stored / "a.fpp", "--output=out", "--files=00.png", cwd=tmp_path)
  assert result.code == 2 and "is not one of the files that this command writes" in result.error


@pytest.mark.parametrize("link", ["out.partial", "out.partial/a"])
def test_a_link_in_what_an_earlier_call_has_left_is_not_followed(tmp_path, link):
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / link).parent.mkdir(exist_ok=True)
  (tmp_path / link).symlink_to(tmp_path / "elsewhere")
  with pytest.raises(fpp.InputError, match="is a link"), OutputFolder(tmp_path / "out").writing() as output:
    output.write(verbatim("a/b.txt"))
  assert not os.listdir(tmp_path / "elsewhere")


def test_an_archive_cannot_write_the_files_of_the_program(tmp_path):
  with OutputFolder(tmp_path / "out").writing() as output:
    for name in (".flowpp_tf.lock", "./.flowpp_tf.unfinished", ".flowpp_tf.lock/a", ".Flowpp_tf.LOCK"):
      with pytest.raises(archive.ArchiveError, match="is one that NAME.partial needs"):
        output.write(verbatim(name))
    output.write(verbatim("a/.flowpp_tf.lock"))
  assert contents(tmp_path / "out") == {"a/.flowpp_tf.lock": b"hello"}


def test_names_that_are_one_to_the_file_system_get_numbers(tmp_path, monkeypatch):
  inode = folders._inode

  def ignoring_case(path):
    path = pathlib.Path(path)
    found = [other for other in path.parent.iterdir() if other.name.lower() == path.name.lower()]
    return inode(found[0]) if found else None

  monkeypatch.setattr(folders, "_inode", ignoring_case)
  with OutputFolder(tmp_path / "out").writing() as output:
    assert [output.write(verbatim(name)) for name in ("A.txt", "a.txt", "b.txt")] == ["A.txt", "a.1.txt", "b.txt"]
  assert sorted(os.listdir(tmp_path / "out")) == ["A.txt", "a.1.txt", "b.txt"]


def test_two_at_once_are_refused(stored, tmp_path):
  with OutputFolder(tmp_path / "out").writing():
    line = programs.refusal("decompress", stored / "a.fpp", "--output=out", cwd=tmp_path)
  assert "is in use by another process" in line


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_a_killed_decompression_is_resumed_or_complete(stored, tmp_path, number):
  child = programs.start("decompress", stored / "a.fpp", "--output=out", cwd=tmp_path)
  partial = tmp_path / "out.partial"
  programs.wait_for(lambda: child.poll() is not None or (partial.exists() and len(written(partial)) > 10 * number))
  child.send_signal(signal.SIGKILL)
  child.communicate()
  if not (tmp_path / "out").exists():
    complete(stored, tmp_path)
  assert contents(tmp_path / "out") == contents(stored / "right")


# --- Names --------------------------------------------------------------------------------------

HOSTILE = {
  "n" * 256: "too long",
  "/".join(["d" * 200] * 30): "too long",
  "/".join(["d"] * 3000): "too long",
  "/".join(["d"] * 1500): "more than 255 folders",
  "a": None,
  "a/b": "directory|exists",
  "\ud800": "surrogates not allowed",
  "../x": "leads out of the folder",
  "": "leads out of the folder",
  "\udcff.bin": None,
  "\x1b[31mred": None,
  "last": None,
}


def test_a_name_that_cannot_be_written_costs_a_line_and_no_neighbour(tmp_path):
  crc = zlib.crc32(b"x")
  (tmp_path / "a.fpp").write_bytes(files_archive([[name, 1, crc] for name in HOSTILE], b"x" * len(HOSTILE)))
  (tmp_path / "model.npz").write_bytes(small_codec().model.to_bytes())
  result = programs.call("decompress", "a.fpp", "--model=model.npz", "--output=out", cwd=tmp_path)
  good = {name for name, problem in HOSTILE.items() if problem is None}
  assert result.code == 2 and set(contents(tmp_path / "out")) == good
  lines = result.error.splitlines()
  assert len(lines) == len(HOSTILE) - len(good) + 1 and "not all could be decoded, only 4 files" in lines[-1]
  assert "\x1b" not in result.error + result.out


def test_names_of_a_million_characters_do_not_fill_the_terminal(tmp_path):
  names = [["n" * 1_000_000, 1, 0], ["m" * 1_000_000, 1, zlib.crc32(b"x")]]
  (tmp_path / "a.fpp").write_bytes(files_archive(names, b"xx"))
  (tmp_path / "model.npz").write_bytes(small_codec().model.to_bytes())
  result = programs.call("decompress", "a.fpp", "--model=model.npz", "--output=out", cwd=tmp_path)
  assert result.code == 2 and "wrong checksum" in result.error and "File name too long" in result.error
  assert len(result.error) < 2000
  result = programs.call("decompress", "a.fpp", f"--model={'n' * 100_000}", "--output=out", cwd=tmp_path)
  assert result.code == 2 and len(result.error) < 5000


def test_control_characters_of_names_do_not_reach_the_terminal(capsys):
  process.say("warning", "a\x1b[31mb\x07 \u202ec\x9b \udcff d")
  assert capsys.readouterr().err.endswith("warning: a\\x1b[31mb\\x07 \\u202ec\\x9b \\udcff d\n")


def test_a_name_that_becomes_too_long_by_png_is_refused(tmp_path):
  """`read_picture` stores such a file verbatim."""
  name = "é" * 126 + "ab"  # 254 bytes
  with OutputFolder(tmp_path / "out").writing() as output:
    with pytest.raises(OSError, match="File name too long"):
      output.write(pictures.ImageFile(name, np.zeros((2, 2, 1), np.uint8)))
    assert output.write(verbatim(name)) == name
  assert contents(tmp_path / "out") == {name: b"hello"}


def test_equal_names_are_numbered_in_linear_time(tmp_path, monkeypatch):
  looks, inode = [], folders._inode

  def counted(path):
    looks.append(1)
    return inode(path)

  monkeypatch.setattr(folders, "_inode", counted)
  with OutputFolder(tmp_path / "out").writing() as output:
    for _ in range(300):
      output.write(verbatim("a.bin"))
    assert len(looks) < 1000
  assert len(contents(tmp_path / "out")) == 300


def test_the_current_folder_is_no_output(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(fpp.InputError, match="is the current folder"), OutputFolder(".").writing():
    pass


def test_a_preset_without_checksum_decodes_only_where_it_is_accepted(tmp_path):
  images = np.random.RandomState(0).randint(0, 17, [3, 8, 8, 1])
  (tmp_path / "a.fpp").write_bytes(fpp.compress(fpp.FlowPlusPlus.from_preset("digits"), images))
  shutil.copytree(fpp.models.preset_folder("digits"), tmp_path / "mine")
  about = json.loads((tmp_path / "mine" / "preset.json").read_text())
  del about["sha256"]
  (tmp_path / "mine" / "preset.json").write_text(json.dumps(about))
  arguments = "a.fpp", f"--preset={tmp_path / 'mine'}", "--output=out"
  assert "--accept_unchecked" in programs.refusal("decompress", *arguments, cwd=tmp_path)
  programs.call("decompress", *arguments, "--accept_unchecked", cwd=tmp_path).ok()
  np.testing.assert_array_equal(np.load(tmp_path / "out"), images)

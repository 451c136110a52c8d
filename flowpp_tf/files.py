"""Atomic writes: an existing file or directory stays in place until the new one is complete."""

from collections.abc import Callable
import hashlib
import os
import pathlib
import shutil

from flowpp_tf.types import Path


def replace_file(path: Path, write: Callable[[pathlib.Path], object]) -> None:
  """Write a file by `write(temporary path)`, which has the same suffix, and move it to `path`."""
  target = pathlib.Path(path)
  temporary = target.with_name(f".tmp.{target.name}")
  try:
    write(temporary)
    os.replace(temporary, target)
  finally:
    temporary.unlink(missing_ok=True)


def replace_directory(path: Path, write: Callable[[pathlib.Path], object]) -> None:
  """Write a directory by `write(temporary path)`, and move it to `path` when it is complete."""
  target = pathlib.Path(path)
  temporary, old = (target.with_name(f".{prefix}.{target.name}") for prefix in ("tmp", "old"))

  def tidy_up():
    if old.exists() and not target.exists():  # the process stopped between the two moves below
      os.replace(old, target)
    for leftover in (temporary, old):
      shutil.rmtree(leftover, ignore_errors=True)

  target.parent.mkdir(parents=True, exist_ok=True)
  tidy_up()
  temporary.mkdir()
  try:
    write(temporary)
    if target.exists():  # os.replace cannot replace a directory that holds files
      os.replace(target, old)
    os.replace(temporary, target)
  finally:
    tidy_up()


def file_sha256(path: Path) -> str:
  """Return the SHA-256 of a file's content as hexadecimal digits."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()

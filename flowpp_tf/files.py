"""Files that are whole or not there: what stood in their place stays until the new one is complete."""

import hashlib
import os
import pathlib
import shutil


def replace_file(path, write):
  """Writes a file by `write(temporary path)`, of the same ending, and puts it in place at once."""
  path = pathlib.Path(path)
  temporary = path.with_name(f".tmp.{path.name}")
  try:
    write(temporary)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def replace_directory(path, write):
  """Writes a directory by `write(temporary path)`, and puts it in place once it is complete."""
  path = pathlib.Path(path)
  temporary, old = (path.with_name(f".{prefix}.{path.name}") for prefix in ("tmp", "old"))

  def tidy_up():
    if old.exists() and not path.exists():  # stopped between the two steps below
      os.replace(old, path)
    for leftover in (temporary, old):
      shutil.rmtree(leftover, ignore_errors=True)

  path.parent.mkdir(parents=True, exist_ok=True)
  tidy_up()
  temporary.mkdir()
  try:
    write(temporary)
    if path.exists():  # a directory cannot be replaced by another in one step
      os.replace(path, old)
    os.replace(temporary, path)
  finally:
    tidy_up()


def file_sha256(path):
  """SHA-256 of a file's content, as hexadecimal digits."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()

"""The directory of an export: metadata.json, and an ONNX file for each function, checked and opened when it is used."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import onnxruntime

_MOST_METADATA = 16 << 20  # bytes


class Export:
  """The functions of an export, from arrays by name to arrays by name.

  Args:
    path: the directory.
    kind: what the export must be of: the entry of its metadata that only such exports have, and how errors call it.
    threads: of ONNX Runtime; None for one for each core.
  """

  def __init__(self, path: str | os.PathLike[str], kind: tuple[str, str], threads: int | None) -> None:
    self._folder, self._threads = pathlib.Path(path), threads
    self._sessions: dict[str, onnxruntime.InferenceSession] = {}
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
      raise ValueError(f"`threads` must be a positive integer or None, got {threads!r}")
    self.metadata = self._metadata()
    entry, name = kind
    if entry not in self.metadata:
      raise ValueError(f"{str(path)!r} must be an export of {name}; its metadata.json has no `{entry}`")

  def open(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Open a function, before arrays of the sizes of metadata.json are made.

    Args:
      name: of the function.
      shapes: shapes of its inputs by name, without the batch, as follow from metadata.json.

    Raises:
      ValueError: if its graph is damaged, or does not agree with metadata.json.
    """
    if name in self._sessions:
      return
    path, session = self._folder / f"{name}.onnx", self._session(name)
    try:
      about = _json(session.get_modelmeta().custom_metadata_map["metadata"]).items()
    except (KeyError, AttributeError, ValueError, RecursionError):
      raise ValueError(f"{str(path)!r} does not say what it computes: export it again") from None
    found = {node.name: tuple(node.shape[1:]) for node in session.get_inputs()}
    other = [(f"`{key}`", value, self.metadata.get(key)) for key, value in about if self.metadata.get(key) != value]
    for what, right, wrong in [*other, *([] if found == shapes else [("the inputs", found, shapes)])]:
      raise ValueError(f"metadata.json does not fit {str(path)!r}: {what} must be {right}, got {repr(wrong):.60}")
    self._sessions[name] = session

  def __call__(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a function that is open, by name."""
    session = self._sessions[name]
    try:
      outputs = session.run(None, inputs)
    except Exception as error:  # ONNX Runtime has many
      raise _cannot_be_run(self._folder / f"{name}.onnx", error) from None
    return dict(zip([output.name for output in session.get_outputs()], outputs))

  def _metadata(self):
    path = self._folder / "metadata.json"
    if not path.is_file():
      raise ValueError(f"{str(self._folder)!r} is no export: it has no metadata.json")
    try:
      if path.stat().st_size > _MOST_METADATA:
        raise ValueError(f"it has more than {_MOST_METADATA:,} bytes")
      about = _json(path.read_text())
      found = about["format"]
      about["sha256"].keys()
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
      raise ValueError(f"{str(path)!r} cannot be read: {type(error).__name__} {error}") from None
    if found != "onnx":
      raise ValueError(f"{str(self._folder)!r} must be an export in the format onnx, got {found!r}")
    return about

  def _session(self, name):
    path = self._folder / f"{name}.onnx"
    try:
      content = path.read_bytes()
    except OSError as error:
      raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != self.metadata["sha256"].get(path.name):
      raise ValueError(f"{str(path)!r} is damaged: it does not have the SHA-256 that metadata.json says")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = self._threads or 0
    try:
      return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
      raise _cannot_be_run(path, error) from None


def _json(text):
  def refuse(name):
    raise ValueError(f"{name} is not a number of JSON")

  return json.loads(text, parse_constant=refuse)


def natural(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> int:
  """Return an integer of metadata.json, from `low` to `high`; raise a `ValueError` for anything else."""
  if type(value) is not int or not low <= value <= high:
    raise ValueError(f"its `{name}` is {repr(value):.60}")
  return value


def sizes(name: str, values: Any) -> tuple[int, ...]:
  """Return a shape of metadata.json; raise a `ValueError` for anything else."""
  if not isinstance(values, list):
    raise ValueError(f"its `{name}` is {repr(values):.60}")
  return tuple(natural(name, value, 1) for value in values)


def _cannot_be_run(path, error):
  return ValueError(f"{str(path)!r} cannot be run: {' '.join(str(error).split())}")


def positive(name: str, value: Any) -> int:
  """Return a positive integer; raise a `ValueError` for anything else."""
  if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 1:
    raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
  return int(value)


def generator(seed: Any) -> np.random.Generator:
  """Return the generator of a seed, an integer from 0 or None; raise a `ValueError` for anything else."""
  if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
    raise ValueError(f"`seed` must be an integer from 0 or None, got {seed!r}")
  return np.random.default_rng(seed)


def temperature_of(value: Any) -> np.float32:
  """Return a finite number from 0, also in float32; raise a `ValueError` for anything else."""
  if not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating)):
    if 0 <= value <= float(np.finfo(np.float32).max):
      return np.float32(value)
  raise ValueError(f"`temperature` must be finite and at least 0, got {value!r}")


def as_numbers(name: str, values: Any) -> np.ndarray:
  """Return float32 numbers of any shape; raise a `ValueError` for anything else, such as complex numbers or text."""
  try:
    array = np.asarray(values)
  except ValueError:
    raise ValueError(f"`{name}` must be an array of numbers, got a ragged list") from None
  if array.dtype.kind not in "biuf":
    found = type(values).__name__ if array.ndim == 0 or array.dtype.kind == "O" else array.dtype
    raise ValueError(f"`{name}` must be an array of numbers, got {found}")
  with np.errstate(over="ignore"):  # what float32 does not have becomes infinite, which callers refuse
    return array.astype(np.float32)


def numbers(name: str, values: Any, shape: tuple[int, ...], count: int | None = None) -> np.ndarray:
  """Return finite float32 numbers of shape `[count, *shape]`; raise a `ValueError` for anything else."""
  array = as_numbers(name, values)
  check_shape(name, array, shape, count)
  if not np.isfinite(array).all():
    raise ValueError(f"`{name}` must be finite, got {np.count_nonzero(~np.isfinite(array))} values that are not")
  return array


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], count: int | None = None) -> None:
  """Raise a `ValueError` unless an array has the shape `[count, *shape]`; None for any count from 1."""
  if array.shape[1:] != shape or array.ndim != len(shape) + 1 or len(array) != (count or max(1, len(array))):
    sizes = ", ".join(map(str, ["N" if count is None else count, *shape]))
    raise ValueError(f"`{name}` must have shape [{sizes}], got {[*array.shape]}")

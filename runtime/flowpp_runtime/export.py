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
    self._folder = pathlib.Path(path)
    self._threads = 0 if threads is None else whole("threads", threads, 1)
    self._sessions: dict[str, onnxruntime.InferenceSession] = {}
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
    options.intra_op_num_threads = self._threads
    try:
      return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
      raise _cannot_be_run(path, error) from None


def _json(text):
  def refuse(name):
    raise ValueError(f"{name} is not a number of JSON")

  return json.loads(text, parse_constant=refuse)


def whole(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> int:
  """Return an integer from `low` to `high`; raise a `ValueError` for anything else."""
  if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
    raise ValueError(f"`{name}` must be an integer from {low} to {high}, got {repr(value):.60}")
  return int(value)


def sizes(name: str, values: Any) -> tuple[int, ...]:
  """Return a shape of metadata.json; raise a `ValueError` or a `TypeError` for anything else."""
  return tuple(whole(name, value, 1) for value in values)


def _cannot_be_run(path, error):
  return ValueError(f"{str(path)!r} cannot be run: {' '.join(str(error).split())}")


def generator(seed: Any) -> np.random.Generator:
  """Return the generator of a seed, an integer from 0 or None; raise a `ValueError` for anything else."""
  return np.random.default_rng(seed if seed is None else whole("seed", seed, 0, 2**63 - 1))


def temperature_of(value: Any) -> np.float32:
  """Return a finite number from 0, also in float32; raise a `ValueError` for anything else."""
  temperature = as_numbers("temperature", value)
  if temperature.ndim or not 0 <= temperature < np.inf:
    raise ValueError(f"`temperature` must be finite and at least 0, got {value!r}")
  return np.float32(temperature)


def as_array(name: str, values: Any, kinds: str, what: str) -> np.ndarray:
  """Return an array whose dtype is of one of the kinds; raise a `ValueError` for anything else, such as text."""
  try:
    array = np.asarray(values)
  except ValueError:
    raise ValueError(f"`{name}` must be {what}, got a ragged list") from None
  if array.dtype.kind not in kinds:
    found = type(values).__name__ if array.ndim == 0 or array.dtype.kind == "O" else array.dtype
    raise ValueError(f"`{name}` must be {what}, got {found}")
  return array


def as_numbers(name: str, values: Any) -> np.ndarray:
  """Return float32 numbers of any shape; raise a `ValueError` for anything else, such as complex numbers or text."""
  with np.errstate(over="ignore"):  # what float32 does not have becomes infinite, which callers refuse
    return as_array(name, values, "biuf", "an array of numbers").astype(np.float32)


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

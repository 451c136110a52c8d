"""Flows of vectors: density and samples."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from flowpp_runtime.export import Export, as_numbers, generator, numbers, sizes, temperature_of, whole


class VectorFlow:
  """A flow of vectors that `fpp.export` wrote in the format "onnx".

  Args:
    path: the directory.
    threads: of ONNX Runtime; None for one for each core.

  Attributes:
    metadata: content of its metadata.json.
    event_size: numbers of a vector, D.
    context_size: numbers of the context that each method then needs; 0 for none.

  Raises:
    ValueError: if the directory is no such export, or damaged. So do all methods for what does not fit the flow.

  Examples:
    >>> flow = flowpp_runtime.VectorFlow("flow_onnx")
    >>> flow.log_prob(flow.sample(3, seed=0)).shape
    (3,)
  """

  def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
    self._call = Export(path, ("event_shape", "a flow of vectors"), threads)
    self.metadata = self._call.metadata
    try:
      shape = [*sizes("event_shape", self.metadata["event_shape"])]
      self.context_size = whole("context_size", self.metadata["context_size"])
      base = self.metadata.get("base", "normal")
      self._df = None if base == "normal" else float(base["student_t"])
      if self._df is not None and not 0 < self._df < math.inf:
        raise ValueError(f"its `base` is {repr(base):.60}")
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
      raise ValueError(f"the metadata.json of {str(path)!r} is not right: {type(error).__name__} {error}") from None
    if len(shape) != 1:
      raise ValueError(f"{str(path)!r} must be an export of a flow of vectors, got one of events of shape {shape}")
    self.event_size = shape[0]

  def log_prob(self, x: Any, context: Any = None) -> np.ndarray:
    """Return the log density of vectors, in nats, float32 `[N]`.

    Args:
      x: `[N, D]`.
      context: `[N, context_size]`, or one row for all, of a flow that takes one.
    """
    return self._log_prob(x, context)["log_prob"]

  def encode(self, x: Any, context: Any = None) -> np.ndarray:
    """Return the latents of vectors `[N, D]`, float32 `[N, D]`; `context` as of `log_prob`."""
    return self._log_prob(x, context)["latents"]

  def decode(self, latents: Any, context: Any = None) -> np.ndarray:
    """Return the vectors of latents `[N, D]`, float32 `[N, D]`; `context` as of `log_prob`."""
    self._open("sample", "latents")
    latents = numbers("latents", latents, (self.event_size,))
    x = self._call("sample", {"latents": latents, **self._given(context, len(latents))})["x"]
    if wrong := np.count_nonzero(~np.isfinite(x).all(axis=1)):
      raise ValueError(f"`latents` must be such as the flow can decode, got {wrong} that become no vector")
    return x

  def sample(self, n: int, context: Any = None, seed: int | None = None, temperature: float = 1.0) -> np.ndarray:
    """Return `n` samples, float32 `[n, D]`.

    Args:
      n: how many.
      context: `[n, context_size]`, or one row for all, of a flow that takes one.
      seed: an integer from 0; None for other samples in each call.
      temperature: factor of the latents, which are normal, or of Student's t-distribution if that is the flow's base.
    """
    self._open("sample", "latents")
    shape, rng = (whole("n", n, 1, 2**63 - 1), self.event_size), generator(seed)
    latents = rng.standard_normal(shape) if self._df is None else rng.standard_t(self._df, shape)
    return self.decode(latents.astype(np.float32) * temperature_of(temperature), context)

  def _log_prob(self, x, context):
    self._open("log_prob", "x")
    x = numbers("x", x, (self.event_size,))
    return self._call("log_prob", {"x": x, **self._given(context, len(x))})

  def _open(self, function, name):
    given = {"context": (self.context_size,)} if self.context_size else {}
    self._call.open(function, {name: (self.event_size,), **given})

  def _given(self, context, count):
    if not self.context_size:
      if context is not None:
        raise ValueError("`context` must be None: the flow takes none")
      return {}
    if context is None:
      raise ValueError(f"`context` must be given, of shape {[count, self.context_size]}, or one row for all")
    context = as_numbers("context", context)
    if context.ndim < 2 or len(context) == 1:
      context = np.broadcast_to(context, [count, *context.shape[-1:]])
    return {"context": numbers("context", context, (self.context_size,), count)}

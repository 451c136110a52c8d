"""Flows of vectors: density and samples."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from flowpp_runtime.export import Export, as_numbers, generator, numbers, sizes, temperature_of, whole


class VectorFlow:
  """A flow of vectors, or an ensemble of flows, that `fpp.export` wrote in the format "onnx".

  Args:
    path: the directory.
    threads: of ONNX Runtime; None for one for each core.

  Attributes:
    metadata: content of its metadata.json.
    event_size: numbers of a vector, D.
    context_shape: shape of the context that each method then needs, such as `(3,)`; None for none.

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
      shape, latent_shape = (sizes(name, self.metadata[name]) for name in ("event_shape", "latent_shape"))
      context_shape = self.metadata["context_shape"]
      self.context_shape = None if context_shape is None else sizes("context_shape", context_shape)
      self._is_ensemble = "members" in self.metadata
      members = self.metadata["members"] if self._is_ensemble else [{"base": self.metadata["base"], "weight": 1.0}]
      self._dfs = [_degrees_of_freedom(one["base"]) for one in members]
      self._weights = np.array([float(one["weight"]) for one in members])
      if not (self._weights >= 0).all() or not abs(self._weights.sum() - 1) < 1e-9:
        raise ValueError(f"its `members` have the weights {self._weights.tolist()!r:.60}")
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
      raise ValueError(f"the metadata.json of {str(path)!r} is not right: {type(error).__name__} {error}") from None
    if len(shape) != 1 or len(latent_shape) != 1:
      raise ValueError(f"{str(path)!r} must be an export of a flow of vectors, got one of events of shape {[*shape]}")
    self.event_size, self._latent_size = shape[0], latent_shape[0]

  def log_prob(self, x: Any, context: Any = None) -> np.ndarray:
    """Return the log density of vectors, in nats, float32 `[N]`.

    Args:
      x: `[N, D]`.
      context: `[N, *context_shape]`, or one row for all, of a flow that takes one.
    """
    return self._log_prob(x, context)["log_prob"]

  def encode(self, x: Any, context: Any = None) -> np.ndarray:
    """Return the latents of vectors `[N, D]`, float32 `[N, L]`; `context` as of `log_prob`.

    L is D, on a simplex D - 1. An ensemble has no latents, which is a `ValueError`.
    """
    self._check_latents("encode")
    return self._log_prob(x, context)["latents"]

  def decode(self, latents: Any, context: Any = None) -> np.ndarray:
    """Return the vectors of latents `[N, L]`, float32 `[N, D]`; `context` as of `log_prob`, errors as of `encode`."""
    self._check_latents("decode")
    return self._decode(latents, context)

  def _check_latents(self, method):
    if self._is_ensemble:
      raise ValueError(f"`{method}` must be of one flow: an ensemble has no latents, only `log_prob` and `sample`")

  def _decode(self, latents, context, **member):
    self._open("sample")
    latents = numbers("latents", latents, (self._latent_size,))
    x = self._call("sample", {"latents": latents, **self._given(context, len(latents)), **member})["x"]
    if wrong := np.count_nonzero(~np.isfinite(x).all(axis=1)):
      raise ValueError(f"`latents` must be such as the flow can decode, got {wrong} that become no vector")
    return x

  def sample(self, n: int, context: Any = None, seed: int | None = None, temperature: float = 1.0) -> np.ndarray:
    """Return `n` samples, float32 `[n, D]`.

    Args:
      n: how many.
      context: `[n, *context_shape]`, or one row for all, of a flow that takes one.
      seed: an integer from 0; None for other samples in each call.
      temperature: factor of the latents, which are normal, or of Student's t-distribution if that is the flow's base.
    """
    self._open("sample")
    shape, rng = (whole("n", n, 1, 2**63 - 1), self._latent_size), generator(seed)
    if not self._is_ensemble:
      return self._decode(_latents(rng, self._dfs[0], shape) * temperature_of(temperature), context)
    member = rng.choice(len(self._dfs), shape[0], p=self._weights).astype(np.int32)
    latents = np.empty(shape, np.float32)
    for i, df in enumerate(self._dfs):
      latents[member == i] = _latents(rng, df, (np.count_nonzero(member == i), shape[1]))
    return self._decode(latents * temperature_of(temperature), context, member=member)

  def _log_prob(self, x, context):
    self._open("log_prob")
    x = numbers("x", x, (self.event_size,))
    return self._call("log_prob", {"x": x, **self._given(context, len(x))})

  def _open(self, function):
    name, size = ("x", self.event_size) if function == "log_prob" else ("latents", self._latent_size)
    shapes: dict[str, tuple[int, ...]] = {name: (size,)}
    if self.context_shape is not None:
      shapes["context"] = self.context_shape
    if function == "sample" and self._is_ensemble:
      shapes["member"] = ()
    self._call.open(function, shapes)

  def _given(self, context, count):
    if self.context_shape is None:
      if context is not None:
        raise ValueError("`context` must be None: the flow takes none")
      return {}
    if context is None:
      raise ValueError(f"`context` must be given, of shape {[count, *self.context_shape]}, or one row for all")
    context = as_numbers("context", context)
    if context.ndim <= len(self.context_shape):
      context = context[np.newaxis]
    if len(context) == 1:
      context = np.broadcast_to(context, [count, *context.shape[1:]])
    return {"context": numbers("context", context, self.context_shape, count)}


def _degrees_of_freedom(base):
  """Return those of a base of metadata.json, None for a normal one."""
  if base == "normal":
    return None
  df = float(base["student_t"])
  if not 0 < df < math.inf:
    raise ValueError(f"its `base` is {repr(base):.60}")
  return df


def _latents(rng, df, shape):
  """Return draws of a base, float32."""
  draws = rng.standard_normal(shape) if df is None else rng.standard_t(df, shape)
  return draws.astype(np.float32)

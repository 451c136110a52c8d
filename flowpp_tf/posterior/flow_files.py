"""Flows in folders: `fpp.save`, and what `fpp.load` reads.

flow.json             {"format": 1, "flow": {"kind": "vector_flow", "arguments": {"event_size": 2, ...}}}
flow.safetensors      the weights, with their checksum
"""

from __future__ import annotations

import os
import pathlib

import tensorflow_probability as tfp

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError
from flowpp_tf.distributions import FlowDistribution
from flowpp_tf.io import gate
from flowpp_tf.io.files import check_replaceable, replace_directory, write_file, write_json, writing
from flowpp_tf.io.model_folders import FLOW
from flowpp_tf.io.weights_file import named_weights_to_bytes, read_weights
from flowpp_tf.layers import Flow
from flowpp_tf.posterior.conditional import Ensemble
from flowpp_tf.posterior.stored_flow import finalize_embeddings, from_config, weights_by_name
from flowpp_tf.types import Path

_WEIGHTS = "flow.safetensors"
_FORMAT = 1


@check_arguments
def save(flow: FlowDistribution | Ensemble | Flow, path: Path, overwrite: bool = False) -> None:
  """Write a flow to a folder that `fpp.load` reads, which appears under its name when it is complete.

  Args:
    flow: `fpp.vector_flow`, `fpp.vector_flow_for`, `fpp.image_flow`, an `fpp.ensemble` of such flows, or the Keras
      layer of one. A trained model of images has `fpp.export(model, path, "preset")`.
    path: folder to write.
    overwrite: whether to replace a flow that the folder holds.

  Raises:
    InputError (a ValueError): for a flow of other bijectors, a `support` or an `embedding` that has no config, a flow
      that is `given` a context, and a `path` that exists or cannot be written.

  Examples:
    >>> flow = fpp.vector_flow(2, support=fpp.support.box(0.0, 1.0))
    >>> fpp.save(flow, "posterior")
    >>> again = fpp.load("posterior")
    >>> bool(again.log_prob([0.5, 0.5]) == flow.log_prob([0.5, 0.5]))
    True
  """
  flow = flow.distribution if isinstance(flow, Flow) else flow
  about = {"format": _FORMAT, "flow": flow.source.to_config()}
  content = named_weights_to_bytes(weights_by_name(flow))
  target = pathlib.Path(path).absolute()

  def write(folder):
    write_json(folder / FLOW, about)
    write_file(folder / _WEIGHTS, content)

  with writing(repr(str(path))):
    check_replaceable(target, "a flow", FLOW, overwrite)
    present = os.listdir(target) if target.is_dir() else []
    if others := sorted({*present} - {FLOW, _WEIGHTS}):
      raise InputError(f"{str(path)!r} cannot be overwritten: it also holds {', '.join(others)[:300]}")
    replace_directory(target, write)


def load_flow(folder: pathlib.Path, unchecked: bool = False) -> tfp.distributions.Distribution:
  """Return the flow of a folder that `save` wrote; `unchecked` is whether its weights may have lost their checksum.

  Raises:
    InputError (a ValueError): if a file cannot be read, is damaged, or is of a later version.
  """
  weights = read_weights(folder / _WEIGHTS, unchecked=unchecked)
  with gate.reading(folder / FLOW):
    about = gate.read_json(folder / FLOW)
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
      raise InputError(f"{str(folder / FLOW)!r} must have the format {_FORMAT} of flows")
    flow = from_config(about.get("flow"))
    weights.assign(weights_by_name(flow))
  finalize_embeddings(flow)
  return flow

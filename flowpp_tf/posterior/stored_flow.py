"""Stored flows: the function that made a flow with its arguments, as JSON has them, and the flow's weights by name.

Whoever reads a flow calls the function again, and assigns the weights. Files (flow_files.py), pickles, copies and Keras
files hold the same.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import keras
import numpy as np
import tensorflow_probability as tfp

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import FLOWS, registered
from flowpp_tf.core.settings import python_number
from flowpp_tf.io import gate
from flowpp_tf.layers import Flow
from flowpp_tf.posterior import support


@dataclasses.dataclass(frozen=True)
class FlowSource:
  """The function that made a flow, and its arguments.

  Attributes:
    kind: name of the function in the table `FLOWS`.
    arguments: of the function, by name.
  """

  kind: str
  arguments: dict[str, Any]

  def make(self) -> tfp.distributions.Distribution:
    """Return a new flow."""
    return registered(FLOWS, self.kind)(**self.arguments)

  def another(self) -> tfp.distributions.Distribution:
    """Return a new flow whose embedding, if it has one, is a copy: only weights that are trained are new."""
    if self.arguments.get("embedding") is None:
      return self.make()
    embedding = _copied(self.arguments["embedding"])
    return FlowSource(self.kind, {**self.arguments, "embedding": embedding}).make()

  def to_config(self) -> dict[str, Any]:
    """Return kind and arguments as JSON has them; raise an `InputError` for an argument that JSON cannot hold."""
    return {"kind": self.kind, "arguments": arguments_to_config(self.arguments)}

  def reduced(self, flow: tfp.distributions.Distribution) -> tuple[Any, ...]:
    """Return the value of the flow's `__reduce_ex__`: how to make the flow again, and its weights."""
    arrays = {name: np.array(weight) for name, weight in weights_by_name(flow).items()}
    return _unpickled, (self.to_config(), arrays)

  def hidden_settings(self) -> Any:
    """Return for JSON what changes the density but no shape of a weight: support and `df`, for each member."""
    if "flows" in self.arguments:
      return [flow.source.hidden_settings() for flow in self.arguments["flows"]]
    try:
      onto = support.to_config(self.arguments.get("support"))
    except InputError:  # a bijector of TFP, which has no config
      onto = type(self.arguments["support"]).__name__
    return {"support": onto, "df": self.arguments.get("df")}


def arguments_to_config(arguments: dict[str, Any]) -> dict[str, Any]:
  """Return for JSON the arguments of a function that makes flows, without arguments of None."""
  return {name: _TO_CONFIG.get(name, python_number)(value) for name, value in arguments.items() if value is not None}


def arguments_from_config(config: dict[str, Any]) -> dict[str, Any]:
  """Return the arguments of `arguments_to_config`."""
  return {name: _FROM_CONFIG.get(name, python_number)(value) for name, value in config.items()}


def from_config(config: Any) -> tfp.distributions.Distribution:
  """Return a new flow from the config of a `FlowSource`; raise an `InputError` for any other config."""
  kind = arguments = None
  if isinstance(config, dict) and {*config} == {"kind", "arguments"}:
    kind = config["kind"]
    arguments = config["arguments"]
  if not isinstance(arguments, dict) or not isinstance(kind, str) or kind not in FLOWS:
    raise InputError(f"a flow must have `kind`, one of {', '.join(FLOWS)}, and `arguments`")
  return FlowSource(kind, arguments_from_config(arguments)).make()


def _embedding_to_config(embedding):
  """Return the config of a Keras model, once it is known that Keras reads it."""
  config = keras.saving.serialize_keras_object(embedding)
  try:
    keras.saving.deserialize_keras_object(gate.parse_json(json.dumps(config)))
  except Exception as error:  # Keras raises many
    cause = gate.reason(error).rpartition("Exception encountered: ")[2]  # after the config of the whole model
    raise InputError(f"the embedding {embedding.name!r} cannot be saved: {cause[:300]}") from None
  return config


def _flows_to_config(flows):
  return [flow.source.to_config() for flow in flows]


def _flows_from_config(configs):
  return [from_config(config) for config in configs]


_TO_CONFIG = {"support": support.to_config, "embedding": _embedding_to_config, "flows": _flows_to_config}
_FROM_CONFIG = {
  "support": support.from_config,
  "embedding": keras.saving.deserialize_keras_object,
  "flows": _flows_from_config,
}


def _copied(embedding):
  """Return a copy of a Keras model with new weights where they are trained."""
  copy = keras.models.clone_model(embedding)
  for new, old in zip(copy.variables, embedding.variables):
    new.trainable = old.trainable
    if not old.trainable:  # frozen, or measured by `adapt`
      new.assign(old)
  _finalize(copy)
  return copy


def _finalize(embedding):
  """Let layers with `adapt` compute with the weights that were assigned to them, rather than with older copies."""
  for layer in embedding._flatten_layers():
    if hasattr(layer, "finalize_state"):
      layer.finalize_state()


# --- Weights ------------------------------------------------------------------------------------


def weights_by_name(flow: tfp.distributions.Distribution) -> dict[str, keras.Variable]:
  """Return the weights of a flow, or of an ensemble's members, by name. A flow made alike has the same names."""
  if hasattr(flow, "flows"):
    parts = {f"flow_{i}": weights_by_name(member) for i, member in enumerate(flow.flows)}
    return {f"{prefix}/{name}": weight for prefix, weights in parts.items() for name, weight in weights.items()}
  embedding = getattr(flow, "embedding", None)
  embedding_weights = [] if embedding is None else embedding.weights
  weights = {f"embedding/{i}/{weight.name}": weight for i, weight in enumerate(embedding_weights)}
  named = {id(weight) for weight in embedding_weights}
  for weight in Flow(flow, name="flow").weights:
    if id(weight) not in named:
      _, _, name = weight.path.partition("/")  # below the flow, which has a number in its name
      weights[name] = weight
  return weights


def finalize_embeddings(flow: tfp.distributions.Distribution) -> None:
  """Let the embeddings of a flow, or of an ensemble's members, compute with the weights that were assigned."""
  for member in getattr(flow, "flows", [flow]):
    if hasattr(member, "flows"):
      finalize_embeddings(member)
    elif hasattr(member, "embedding"):
      _finalize(member.embedding)


def _unpickled(config, arrays):
  flow = from_config(config)
  for name, weight in weights_by_name(flow).items():
    weight.assign(arrays[name])
  finalize_embeddings(flow)
  return flow

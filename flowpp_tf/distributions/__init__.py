"""Dequantization and the flow as TFP distributions."""

from flowpp_tf.distributions.dequantization import UniformDequantization, VariationalDequantization
from flowpp_tf.distributions.flow_distribution import FlowDistribution


def __getattr__(name: str) -> None:
  if name == "ImageDistribution":
    raise AttributeError(f"`{__name__}.{name}` is now `flowpp_tf.models.{name}`")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

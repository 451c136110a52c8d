"""Dequantization and the flow as TFP distributions."""

from flowpp_tf.distributions.dequantization import UniformDequantization, VariationalDequantization
from flowpp_tf.distributions.flow_distribution import FlowDistribution

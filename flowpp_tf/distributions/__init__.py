"""Dequantization and the flow as TFP distributions."""

from flowpp_tf.distributions.dequantization import VariationalDequantization, uniform_dequantization
from flowpp_tf.distributions.flow_distribution import FlowDistribution

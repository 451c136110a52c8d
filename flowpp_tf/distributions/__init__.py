"""Dequantization, the flow, and images as TFP distributions."""

from flowpp_tf.distributions.dequantization import UniformDequantization, VariationalDequantization
from flowpp_tf.distributions.flow_distribution import FlowDistribution
from flowpp_tf.distributions.image_distribution import ImageDistribution

"""Dequantization and the flow as TFP distributions."""

from flowpp_tf.core.renamed import renamed as _renamed
from flowpp_tf.distributions.dequantization import UniformDequantization, VariationalDequantization
from flowpp_tf.distributions.flow_distribution import FlowDistribution

__getattr__ = _renamed(__name__, {"ImageDistribution": "flowpp_tf.models.ImageDistribution"})

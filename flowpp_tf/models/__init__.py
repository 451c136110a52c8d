"""Architecture as data, and the model that it builds."""

from flowpp_tf.models.config import CONFIGS, FlowPlusPlusConfig, get_config
from flowpp_tf.models.flow_plus_plus import FlowPlusPlus

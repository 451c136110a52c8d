"""Architecture as data, and the model that it builds."""

from flowpp_tf.models.config import CONFIGS
from flowpp_tf.models.config import FlowPlusPlusConfig
from flowpp_tf.models.config import get_config
from flowpp_tf.models.flow_plus_plus import FlowPlusPlus

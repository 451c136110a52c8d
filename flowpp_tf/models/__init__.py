"""Architecture as data, and the model that it builds."""

from flowpp_tf.config.model import CONFIGS, FlowPlusPlusConfig, get_config
from flowpp_tf.io.model_folders import preset_folder, presets
from flowpp_tf.models.conditioning import unpack_batch
from flowpp_tf.models.flow_plus_plus import FlowPlusPlus
from flowpp_tf.models.image_distribution import ImageDistribution
from flowpp_tf.models.images import image_flow
from flowpp_tf.models.vectors import VectorFlow, vector_flow, vector_flow_for
from flowpp_tf.pretrained.initial import InitialWeights
from flowpp_tf.pretrained.official import export_official_weights, load_official_weights
from flowpp_tf.pretrained.presets import copy_preset, open_preset, save_preset

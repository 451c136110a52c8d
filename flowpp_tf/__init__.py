"""Flow++ (Ho et al. 2019) on TensorFlow, Keras and TensorFlow Probability."""

from flowpp_tf import bijectors, distributions, export, layers
from flowpp_tf.errors import InputError
from flowpp_tf.export import export_official_weights, export_saved_model, load_official_weights, load_saved_model
from flowpp_tf.models import CONFIGS, FlowPlusPlus, FlowPlusPlusConfig, get_config, presets
from flowpp_tf.version import __version__

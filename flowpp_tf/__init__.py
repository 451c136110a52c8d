"""Flow++ (Ho et al. 2019) on TensorFlow, Keras and TensorFlow Probability."""

from flowpp_tf import bijectors
from flowpp_tf import distributions
from flowpp_tf import export
from flowpp_tf import layers
from flowpp_tf.errors import InputError
from flowpp_tf.export import export_official_weights
from flowpp_tf.export import export_saved_model
from flowpp_tf.export import load_official_weights
from flowpp_tf.export import load_saved_model
from flowpp_tf.models import CONFIGS
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models import FlowPlusPlusConfig
from flowpp_tf.models import get_config
from flowpp_tf.version import __version__

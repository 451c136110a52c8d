"""What a run is made of, as data: configs of models and of training, and recipes. Nothing here imports TensorFlow."""

from flowpp_tf.config.model import CONFIGS, CouplingConfig, FlowPlusPlusConfig, NetworkConfig, get_config
from flowpp_tf.config.recipe import PRECISIONS, Recipe, RunSettings, recipes, register_config
from flowpp_tf.config.training import TENSORBOARD, TrainingConfig

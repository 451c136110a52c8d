"""Configs of models and of training, and recipes: a run as data. Nothing here imports TensorFlow."""

from flowpp_tf.config.model import CONFIGS, CouplingConfig, FlowPlusPlusConfig, NetworkConfig, get_config
from flowpp_tf.config.recipe import PRECISIONS, Recipe, RunSettings, recipes, register_config
from flowpp_tf.config.training import TENSORBOARD, TrainingConfig

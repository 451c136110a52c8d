"""Weights in and out in other forms than our own, and the model as others run it."""

from flowpp_tf.export import official_weights
from flowpp_tf.export.official_weights import export_official_weights
from flowpp_tf.export.official_weights import load_official_weights
from flowpp_tf.export.loaded_model import LoadedModel
from flowpp_tf.export.loaded_model import load_saved_model
from flowpp_tf.export.saved_model import export_saved_model

"""Weights in the format of the published release, and models as SavedModels."""

from flowpp_tf.export import official_weights
from flowpp_tf.export.official_weights import export_official_weights, load_official_weights
from flowpp_tf.export.loaded_model import LoadedModel, load_saved_model
from flowpp_tf.export.saved_model import export_saved_model

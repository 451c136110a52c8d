"""Models as SavedModels and for other runtimes; weights in the release's format, from `pretrained`."""

from flowpp_tf.exporting.formats import export
from flowpp_tf.exporting.saved_model import LoadedModel, load_saved_model
from flowpp_tf.pretrained.official import export_official_weights, load_official_weights

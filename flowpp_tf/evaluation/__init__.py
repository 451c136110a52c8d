"""Evaluation of a trained model: bits/dim, samples, scores of single images, pictures, curves."""

from flowpp_tf.evaluation.batched_model import BatchedModel
from flowpp_tf.evaluation.calibration import (
  ValidationStatistics,
  conformal_p_value,
  conformal_threshold,
  load_typical,
  measure_typical,
)
from flowpp_tf.evaluation.classification import Classification, classify
from flowpp_tf.evaluation.codecs import CodecBits, codec_bytes, measure_codecs
from flowpp_tf.evaluation.features import FeatureNetwork
from flowpp_tf.evaluation.large_pictures import BitMaps, bit_maps, sample_pictures
from flowpp_tf.evaluation.latents import Reconstruction, interpolate, reconstruct
from flowpp_tf.evaluation.likelihood import BitsPerDim, Bound, evaluate_bits_per_dim
from flowpp_tf.evaluation.pictures import ANIMATIONS, heat_map, image_grid, plot_curves, to_shades, write_animation
from flowpp_tf.evaluation.positions import PositionBits, PositionScorer
from flowpp_tf.evaluation.record import read_record, write_record
from flowpp_tf.evaluation.sample_quality import SampleEvaluator, SampleQuality, nearest_neighbours
from flowpp_tf.evaluation.scores import REAL_SCORES, SCORES, Scorer, png_bytes, scores_of

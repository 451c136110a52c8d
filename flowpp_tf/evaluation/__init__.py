"""Evaluation of a trained model: bits/dim, samples, scores of single images, pictures, curves."""

from flowpp_tf.evaluation.batched_model import BatchedModel
from flowpp_tf.evaluation.classification import Classification, classify
from flowpp_tf.evaluation.codecs import CodecBits, check_codecs, codec_bytes, measure_codecs
from flowpp_tf.evaluation.conformal import conformal_p_value, conformal_threshold
from flowpp_tf.evaluation.features import FeatureNetwork
from flowpp_tf.evaluation.interpolation import interpolate, slerp
from flowpp_tf.evaluation.likelihood import BitsPerDim, Bound, evaluate_bits_per_dim
from flowpp_tf.evaluation.maps import BitMaps, bit_maps
from flowpp_tf.evaluation.neighbours import nearest_neighbours
from flowpp_tf.evaluation.pictures import ANIMATIONS, heat_map, image_grid, plot_curves, to_shades, write_animation
from flowpp_tf.evaluation.positions import PositionBits, PositionScorer
from flowpp_tf.evaluation.reconstruction import Reconstruction, reconstruct
from flowpp_tf.evaluation.record import read_record, write_record
from flowpp_tf.evaluation.sample_quality import SampleEvaluator, SampleQuality, frechet_distance
from flowpp_tf.evaluation.scores import REAL_SCORES, SCORES, Scorer, png_bytes, scores_of
from flowpp_tf.evaluation.tiled_sampling import sample_pictures
from flowpp_tf.evaluation.typicality import ValidationStatistics, load_typical, measure_typical

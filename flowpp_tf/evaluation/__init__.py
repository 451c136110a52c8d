"""Evaluation of a trained model: bits/dim, samples, scores of single images, pictures, curves."""

from flowpp_tf.evaluation.batched import Batched
from flowpp_tf.evaluation.interpolation import interpolate
from flowpp_tf.evaluation.interpolation import slerp
from flowpp_tf.evaluation.likelihood import BitsPerDim
from flowpp_tf.evaluation.likelihood import Bound
from flowpp_tf.evaluation.likelihood import evaluate_bits_per_dim
from flowpp_tf.evaluation.neighbours import nearest_neighbours
from flowpp_tf.evaluation.pictures import ANIMATIONS
from flowpp_tf.evaluation.pictures import image_grid
from flowpp_tf.evaluation.pictures import plot_curves
from flowpp_tf.evaluation.pictures import to_shades
from flowpp_tf.evaluation.pictures import write_animation
from flowpp_tf.evaluation.reconstruction import Reconstruction
from flowpp_tf.evaluation.reconstruction import reconstruct
from flowpp_tf.evaluation.record import read_record
from flowpp_tf.evaluation.record import write_record
from flowpp_tf.evaluation.scores import SCORES
from flowpp_tf.evaluation.scores import Scorer
from flowpp_tf.evaluation.scores import png_bytes
from flowpp_tf.evaluation.scores import scores_of
from flowpp_tf.evaluation.typicality import Typical
from flowpp_tf.evaluation.typicality import load_typical
from flowpp_tf.evaluation.typicality import measure_typical

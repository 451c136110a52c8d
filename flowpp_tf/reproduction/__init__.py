"""The paper's experiments at a scale of choice: runs, tables and plots for `bin/reproduce`. Imports no TensorFlow."""

from flowpp_tf.reproduction.ablations import run_ablations
from flowpp_tf.reproduction.runs import Stopped
from flowpp_tf.reproduction.table import estimate
from flowpp_tf.reproduction.variants import BASES, VARIANTS, matched_width, settings_of

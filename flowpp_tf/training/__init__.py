"""Training runs: devices, schedules, averaged weights, checkpoints, the run itself."""

from flowpp_tf.training.adam import Adam
from flowpp_tf.training.averaging import averaged_weights
from flowpp_tf.training.callbacks import Diverged
from flowpp_tf.training.callbacks import Stopped
from flowpp_tf.training.strategy import STRATEGIES
from flowpp_tf.training.strategy import enable_determinism
from flowpp_tf.training.strategy import get_strategy
from flowpp_tf.training.schedules import PiecewiseSchedule
from flowpp_tf.training.tensorboard import TENSORBOARD
from flowpp_tf.training.train import train
from flowpp_tf.training.workdir import Workdir
from flowpp_tf.training.workers import WorkerLost
from flowpp_tf.training.workers import Workers

"""Training runs: config, state, step, loop, checkpoints, devices, schedules."""

from flowpp_tf.training.adam import Adam
from flowpp_tf.training.config import TENSORBOARD
from flowpp_tf.training.config import TrainingConfig
from flowpp_tf.training.loop import Diverged
from flowpp_tf.training.loop import train
from flowpp_tf.training.schedules import PiecewiseSchedule
from flowpp_tf.training.signals import Stopped
from flowpp_tf.training.state import TrainState
from flowpp_tf.training.step import train_step
from flowpp_tf.training.strategy import STRATEGIES
from flowpp_tf.training.strategy import enable_determinism
from flowpp_tf.training.strategy import get_strategy
from flowpp_tf.training.workdir import Workdir
from flowpp_tf.training.workers import WorkerLost
from flowpp_tf.training.workers import Workers

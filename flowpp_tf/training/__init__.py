"""Training runs: config, state, step, loop, checkpoints, schedules."""

from flowpp_tf.config.training import TENSORBOARD, TrainingConfig
from flowpp_tf.core.errors import Diverged
from flowpp_tf.devices import STRATEGIES, Workers, enable_determinism, get_strategy
from flowpp_tf.training.loop import run_training
from flowpp_tf.training.optimizer import Adam
from flowpp_tf.training.schedules import PiecewiseSchedule
from flowpp_tf.training.signals import Stopped
from flowpp_tf.training.step import TrainState, train_step
from flowpp_tf.training.workdir import Workdir

"""Devices: strategies over several of them, workers on several hosts, lanes of one CPU."""

from flowpp_tf.devices.lanes import in_eager_lanes, in_lanes, lane_count, moments, side_by_side, together, total
from flowpp_tf.devices.lanes import use_cpu_lanes
from flowpp_tf.devices.strategy import STRATEGIES, enable_determinism, get_strategy, has_accelerator
from flowpp_tf.devices.workers import Workers

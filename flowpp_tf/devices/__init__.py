"""Devices: strategies over several of them, and workers on several hosts."""

from flowpp_tf.devices.strategy import STRATEGIES, enable_determinism, get_strategy
from flowpp_tf.devices.workers import Workers

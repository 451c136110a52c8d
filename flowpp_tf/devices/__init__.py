"""Strategies over several devices, and collective operations of workers on several hosts."""

from flowpp_tf.devices.strategy import STRATEGIES, enable_determinism, get_strategy
from flowpp_tf.devices.workers import Workers

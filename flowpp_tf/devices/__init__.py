"""Devices: strategies over several of them, and workers on several hosts."""

from flowpp_tf.core.renamed import renamed as _renamed
from flowpp_tf.devices.strategy import STRATEGIES, enable_determinism, get_strategy
from flowpp_tf.devices.workers import Workers

__getattr__ = _renamed(
  __name__,
  {
    **{
      name: f"flowpp_tf.core.lanes.{name}"
      for name in ("in_eager_lanes", "lane_count", "moments", "use_cpu_lanes")
    },
    "in_lanes": "flowpp_tf.core.lanes.concat_shards",
    "side_by_side": "flowpp_tf.core.lanes.map_shards",
    "together": "flowpp_tf.core.lanes.sync_lanes",
    "total": "flowpp_tf.core.lanes.sum_shards",
    "has_accelerator": "flowpp_tf.core.environment.has_accelerator",
  },
)

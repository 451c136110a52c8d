"""Where the time of a function goes: seconds of each kind of TensorFlow kernel, by TensorFlow's profiler."""

import collections
import pathlib
import tempfile

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # what the profiler writes

# What kernels are for, by words of their names; the first that fits counts.
PURPOSES = (
    ("convolutions", ("Conv2D",)),
    ("matrix products", ("MatMul", "Einsum")),
)

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def kernel_seconds(run):
  """Seconds in kernels, by type, largest first, while `run()` runs once; one after the other if there
  is one thread."""
  with tempfile.TemporaryDirectory() as folder:
    tf.profiler.experimental.start(folder)
    run()
    tf.profiler.experimental.stop()
    space = xplane_pb2.XSpace()
    space.ParseFromString(next(pathlib.Path(folder).rglob("*.xplane.pb")).read_bytes())
  seconds = collections.Counter()
  for plane in space.planes:
    if not plane.name.startswith("/host:CPU"):
      continue
    for line in plane.lines:
      for event in line.events:
        name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
        if name and kind.isidentifier() and kind not in _CALLS:
          seconds[kind] += event.duration_ps / 1e12
  return dict(seconds.most_common())

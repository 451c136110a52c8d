"""Devices: one, or all of them mirrored."""

import tensorflow as tf

from flowpp_tf.errors import InputError

STRATEGIES = ("one", "mirrored")


def get_strategy(name="one", num_virtual_cpus=0):
  """A `tf.distribute.Strategy`.

  Args:
    name: "one" for a single device, "mirrored" for `MirroredStrategy` over all GPUs, or over all
      logical CPU devices where there is no GPU.
    num_virtual_cpus: split the CPU into so many logical devices first, to try "mirrored" without
      GPUs; 0 leaves it whole. Only before TensorFlow has used its devices.

  Raises:
    InputError (a ValueError): for an unknown name, or when it is too late to split the CPU.
  """
  if name not in STRATEGIES:
    raise InputError(f"`strategy` must be one of {', '.join(STRATEGIES)}, got {name!r}")
  if num_virtual_cpus:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
      tf.config.set_logical_device_configuration(
          cpu, [tf.config.LogicalDeviceConfiguration()] * num_virtual_cpus)
    except RuntimeError:
      raise InputError("`num_virtual_cpus` must be set before TensorFlow uses its devices") from None
  if name == "one":
    return tf.distribute.get_strategy()
  kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
  return tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices(kind)])

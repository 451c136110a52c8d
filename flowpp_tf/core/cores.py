"""The processor's cores that this process may use: fewer than there are under `taskset`, in containers, on clusters."""

import os


def usable_cores() -> list[int]:
  """Return their numbers, at least one."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return [*range(os.cpu_count() or 1)]  # macOS and Windows

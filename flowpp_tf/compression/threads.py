"""Work on parts of arrays in a thread for each core; NumPy lets other threads run while it computes."""

from collections.abc import Callable, Iterable
import concurrent.futures
import functools
import os
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _pool(process_id: int) -> concurrent.futures.ThreadPoolExecutor:
  del process_id  # a fork has none of the threads of its parent
  return concurrent.futures.ThreadPoolExecutor(os.cpu_count())


def in_threads(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
  """Return what a function gives for each part, in their order."""
  parts = list(parts)
  if len(parts) < 2:
    return [function(part) for part in parts]
  return list(_pool(os.getpid()).map(function, parts))

"""Parts of a batch in a thread for each core.

NumPy lets other threads run while it computes. Its products must then keep to one thread each: two that start threads
of their own take longer than one after the other. threadpoolctl, which scikit-learn brings, tells them; without it
there are no threads. The results are the same.
"""

from collections.abc import Callable, Iterable
import concurrent.futures
import functools
import os
from typing import Any, TypeVar

try:
  import threadpoolctl
except ImportError:
  threadpoolctl = None

T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _pool(process_id: int) -> concurrent.futures.ThreadPoolExecutor:
  del process_id  # a fork has none of the threads of its parent
  return concurrent.futures.ThreadPoolExecutor(os.cpu_count())


@functools.cache
def _controller() -> Any:
  return threadpoolctl.ThreadpoolController()


def in_threads(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
  """Return what a function gives for each part, in their order."""
  parts = list(parts)
  if len(parts) < 2 or threadpoolctl is None or os.cpu_count() == 1:
    return [function(part) for part in parts]
  with _controller().limit(limits=1, user_api="blas"):
    return list(_pool(os.getpid()).map(function, parts))

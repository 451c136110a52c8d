"""Parts of a batch in a thread for each core.

NumPy lets other threads run while it computes. Its products must then keep to one thread each: two that start threads
of their own take longer than one after the other. threadpoolctl, which scikit-learn brings, tells them; without it
there are no threads. The results are the same.
"""

from collections.abc import Callable, Iterable
import concurrent.futures
import functools
import os
import threading
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


class _OneThreadAProduct:
  """Within it, products keep to one thread; several threads may be within it at a time."""

  def __init__(self):
    self._lock, self._count = threading.Lock(), 0

  def __enter__(self):
    with self._lock:
      if not self._count:
        self._limit = _controller().limit(limits=1, user_api="blas")
        self._limit.__enter__()
      self._count += 1

  def __exit__(self, *error):
    with self._lock:
      self._count -= 1
      if not self._count:
        self._limit.__exit__(*error)


@functools.cache
def _controller() -> Any:
  return threadpoolctl.ThreadpoolController()


_one_thread_a_product = _OneThreadAProduct()


def in_threads(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
  """Return what a function gives for each part, in their order."""
  parts = list(parts)
  if len(parts) < 2 or threadpoolctl is None or os.cpu_count() == 1:
    return [function(part) for part in parts]
  with _one_thread_a_product:
    return list(_pool(os.getpid()).map(function, parts))

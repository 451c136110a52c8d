"""Run a function on several cores.

NumPy releases the GIL while it computes. Each of its matrix products must then use one thread: two products that start
their own threads take longer than one after the other. threadpoolctl, of the extra `compression`, limits them;
without it there are no threads. The results are the same.
"""

from collections.abc import Callable, Iterable
import concurrent.futures
import functools
import os
import threading
from typing import TypeVar

try:
  import threadpoolctl
except ImportError:
  threadpoolctl = None

_MOST = 1 << 16
T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _pool(process_id: int) -> concurrent.futures.ThreadPoolExecutor:
  del process_id  # a fork does not have the threads of its parent
  return concurrent.futures.ThreadPoolExecutor(os.cpu_count())


class _OneThreadPerProduct:
  """A context in which matrix products use one thread; several threads may be in it at a time."""

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


_controller = functools.cache(lambda: threadpoolctl.ThreadpoolController())
_one_thread_per_product = _OneThreadPerProduct()


def in_threads(function: Callable[[T], R], parts: Iterable[T], most: int = _MOST) -> list[R]:
  """Return `function(part)` of each part, in order.

  Args:
    function: of a part.
    parts: the parts.
    most: how many threads may compute at a time.
  """
  parts = list(parts)
  if len(parts) < 2 or threadpoolctl is None or os.cpu_count() == 1 or most == 1:
    return [function(part) for part in parts]
  if most < (os.cpu_count() or 1):
    free = threading.Semaphore(most)
    compute = function

    def function(part: T) -> R:
      with free:
        return compute(part)

  with _one_thread_per_product:
    return list(_pool(os.getpid()).map(function, parts))

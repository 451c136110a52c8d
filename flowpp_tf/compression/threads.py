"""Run functions on several cores.

NumPy releases the GIL while it computes. Each of its matrix products must then use one thread: two products that start
their own threads take longer than one after the other. A single one has one, too: a product of a few images is so
short that its threads wait for each other, on a busy machine for many times what it takes. threadpoolctl, of the extra
`compression`, limits them; without it there are no threads. The results are the same.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import contextlib
import contextvars
import functools
import os
import threading
from typing import Any, TypeVar

try:
  import threadpoolctl
except ImportError:
  threadpoolctl = None

from flowpp_tf.core.environment import usable_cores
from flowpp_tf.io import budget

CORES = len(usable_cores())
_NO_LIMIT = contextlib.nullcontext()
T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _pool(purpose: str, process_id: int) -> concurrent.futures.ThreadPoolExecutor:
  """Threads of one purpose: a call may wait for calls of another one, but not of its own."""
  del purpose, process_id  # a fork does not have the threads of its parent
  return concurrent.futures.ThreadPoolExecutor(CORES)


class _Inside:
  """How many threads are inside of a context.

  Args:
    first: makes a context around all of them.
  """

  def __init__(self, first: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext) -> None:
    self._lock, self._first = threading.Lock(), first
    self.count = 0

  def __enter__(self) -> None:
    with self._lock:
      if not self.count:
        self._around = self._first()
        self._around.__enter__()
      self.count += 1

  def __exit__(self, *error: object) -> None:
    with self._lock:
      self.count -= 1
      if not self.count:
        self._around.__exit__(None, None, None)


_controller = functools.cache(lambda: threadpoolctl.ThreadpoolController())
_one_thread_per_product = _Inside(lambda: _controller().limit(limits=1, user_api="blas"))
_computing, _computing_ahead = (
  _Inside(),
  _Inside(),
)  # calls in all threads of `map_ahead` and `in_background`; of `map_ahead`
_is_such_a_call: contextvars.ContextVar[bool] = contextvars.ContextVar("is_such_a_call", default=False)
_stopped: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("stopped", default=lambda: False)


def check_stopped() -> None:
  """Raise a `CancelledError` in a thread of `map_ahead` whose result nobody waits for; call this in what takes long."""
  if _stopped.get()():
    raise concurrent.futures.CancelledError


def in_threads(
  function: Callable[[T], R], parts: Iterable[T], free: contextlib.AbstractContextManager[Any] = _NO_LIMIT
) -> list[R]:
  """Return `function(part)` of each part, in order; in this thread where others are as many as further cores.

  Args:
    function: of a part.
    parts: the parts.
    free: a context in which each part is computed, such as a semaphore that several calls share.
  """
  parts = list(parts)

  def compute(part: T) -> R:
    with free:
      return function(part)

  if threadpoolctl is None:
    return [compute(part) for part in parts]
  with _one_thread_per_product:
    if len(parts) < 2 or _computing.count - _is_such_a_call.get() + 1 >= CORES:
      return [compute(part) for part in parts]
    return list(_pool("parts", os.getpid()).map(compute, parts))


def in_background(function: Callable[..., R], *arguments: Any) -> Callable[[], R]:
  """Begin a call in another thread; return a function that waits for its end, and returns or raises what it does.

  Without threads, or where those of `map_ahead` are as many as cores, the call is made then.
  """
  if threadpoolctl is None or _computing_ahead.count >= CORES or CORES == 1:
    return functools.partial(function, *arguments)
  return _submit(_pool("background", os.getpid()), _stopped.get(), function, *arguments).result


def map_ahead(
  function: Callable[[T], R],
  parts: Iterable[T],
  memory: Callable[[T], int] = lambda part: 0,
  pays: Callable[[T], bool] = lambda part: True,
) -> Iterator[R]:
  """Yield `function(part)` of each part, in order; threads compute those that follow meanwhile.

  One for each core is begun, as long as all of them fit in the budget's memory; one always is. What `parts`, `memory`
  or `function` raise is raised after the results before it. The threads stop, where they call `check_stopped`, when
  the iterator is closed.

  Args:
    function: of a part.
    parts: the parts, which are taken in the caller's thread: those that are begun, and one that waits for memory.
    memory: bytes that a part takes until its result has been used.
    pays: whether a part beside others is computed faster; if not, it begins when those before it have been used.
  """
  if threadpoolctl is None or CORES == 1:
    yield from map(function, parts)
    return

  def compute(part: T) -> R:
    with _computing_ahead:
      return function(part)

  found = ((part, memory(part)) for part in parts)
  following: tuple[T, int] | None = None  # which waits for memory
  end: Exception | None = None
  begun, amounts = collections.deque[concurrent.futures.Future[R]](), collections.deque[int]()
  pool, closed = concurrent.futures.ThreadPoolExecutor(CORES), threading.Event()
  try:
    while True:
      while end is None and len(begun) < CORES:
        try:
          following = following or next(found)
        except Exception as error:  # StopIteration too
          end = error
          break
        if begun and not (pays(following[0]) and sum(amounts) + following[1] <= budget.current().memory):
          break
        begun.append(_submit(pool, closed.is_set, compute, following[0]))
        amounts.append(following[1])
        following = None
      if not begun:
        break
      yield begun.popleft().result()
      amounts.popleft()
    if end is not None and not isinstance(end, StopIteration):
      raise end
  finally:
    closed.set()
    pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool, stopped, function, *arguments):
  """Call a function in a thread, in the context of this one, with a function that tells whether it is to stop."""

  def call():
    _stopped.set(stopped)
    _is_such_a_call.set(True)
    with _computing, _one_thread_per_product:
      return function(*arguments)

  return pool.submit(contextvars.copy_context().run, call)

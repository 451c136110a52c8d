"""Run functions on several cores, in one pool of threads.

NumPy releases the GIL while it computes. Each of its matrix products must then use one thread: two products that start
their own threads take longer than one after the other. A single one has one, too: a product of a few images is so
short that its threads wait for each other, on a busy machine for many times what it takes. threadpoolctl, of the extra
`compression`, limits them; without it no threads are used. The results are the same.

A call that no thread of the pool has begun is made by whoever waits for it. So calls may wait for calls, and the pool
needs no more threads than there are cores.
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
T = TypeVar("T")
R = TypeVar("R")


@functools.cache
def _pool(cores: int, process_id: int) -> concurrent.futures.ThreadPoolExecutor:
  del process_id  # a fork does not have the threads of its parent
  return concurrent.futures.ThreadPoolExecutor(cores)


_controller = functools.cache(lambda: threadpoolctl.ThreadpoolController())
_stopped: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("stopped", default=lambda: False)


def check_stopped() -> None:
  """Raise a `CancelledError` in a thread of `map_ahead` whose result nobody waits for; call this in what takes long."""
  if _stopped.get()():
    raise concurrent.futures.CancelledError


def _compute(function, *arguments):
  with _one_thread_per_product():
    return function(*arguments)


_limited = threading.local()  # of a thread: whether it has set the limit, which takes longer than a small product


@contextlib.contextmanager
def _one_thread_per_product():
  """Limit matrix products within the context; the last thread to leave it sets what was there before the first one."""
  if threadpoolctl is None or getattr(_limited, "inside", False):
    yield
    return
  _limited.inside = True
  try:
    with _before, _controller().limit(limits=1, user_api="blas"):
      yield
  finally:
    _limited.inside = False


class _Before:
  """The numbers of threads of products. They belong to the process: a thread may save what another thread has set."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._inside = 0

  def __enter__(self) -> None:
    with self._lock:
      if not self._inside:
        self._saved = _controller().limit(limits=None)
      self._inside += 1

  def __exit__(self, *error: object) -> None:
    with self._lock:
      self._inside -= 1
      if not self._inside:
        with self._saved:  # at whose end they are set
          pass


_before = _Before()


def in_background(function: Callable[..., R], *arguments: Any) -> Callable[[], R]:
  """Begin a call in another thread; return a function that waits for its end, and returns or raises what it does.

  Without threads the call is made then.
  """
  call = functools.partial(contextvars.copy_context().run, _compute, function, *arguments)
  if threadpoolctl is None or CORES == 1:
    return call
  future = _pool(CORES, os.getpid()).submit(call)
  return lambda: call() if future.cancel() else future.result()


def in_threads(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
  """Return `function(part)` of each part, in order: threads begin with the first ones, and this one with the last.

  Args:
    function: of a part.
    parts: at least one.
  """
  *others, last = parts
  with _one_thread_per_product():
    begun = [in_background(function, part) for part in others]
    results = [function(last), *(result() for result in begun[::-1])]
  return results[::-1]


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
  closed = threading.Event()

  def compute(part: T) -> R:
    _stopped.set(closed.is_set)
    check_stopped()
    return function(part)

  begun = collections.deque[tuple[Callable[[], R], int]]()

  def oldest() -> Iterator[R]:
    yield begun[0][0]()
    begun.popleft()  # its memory is free when its result has been used

  try:
    with _one_thread_per_product():
      for call, size, is_faster in _calls(compute, parts, memory, pays):
        while begun and not (is_faster and size + sum(other for _, other in begun) <= budget.current().memory):
          yield from oldest()
        begun.append((in_background(call), size))
        if len(begun) == CORES:
          yield from oldest()
      while begun:
        yield from oldest()
  finally:
    closed.set()


def _calls(function, parts, memory, pays):
  """Yield a call of each part, its memory, and whether it is faster beside others; at an error one that raises it."""
  try:
    for part in parts:
      yield functools.partial(function, part), memory(part), pays(part)
  except Exception as error:
    yield functools.partial(_raise, error), 0, True


def _raise(error):
  raise error

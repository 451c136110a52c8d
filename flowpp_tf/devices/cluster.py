"""The workers that TF_CONFIG lists, and the wait for them."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import NamedTuple

from flowpp_tf.core.errors import InputError, WorkerLost

_EVERY = 30  # seconds between lines
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\d{1,5})")


class Cluster(NamedTuple):
  """The workers of a run: their addresses, and which of them this is."""

  workers: tuple[str, ...]
  task: int


def _print_to_stderr(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def cluster_of_environment() -> Cluster | None:
  """Return the cluster of TF_CONFIG, or None if it is not set.

  Raises:
    InputError (a ValueError): if it is not one, or an address in it is not.
  """
  text = os.environ.get("TF_CONFIG")
  if not text:
    return None
  try:
    config = json.loads(text)
    jobs, task = config["cluster"], config["task"]
    workers, index = jobs["worker"], task["index"]
    if not (
      isinstance(workers, list) and task["type"] == "worker" and type(index) is int and (0 <= index < len(workers))
    ):
      raise ValueError
  except (ValueError, KeyError, TypeError, RecursionError):
    raise InputError(
      'TF_CONFIG must be like {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": '
      f'"worker", "index": 0}}}}, with the index of this host, got {text[:500]}'
    ) from None
  if {*jobs} != {"worker"}:
    raise InputError(f"TF_CONFIG must list workers only, got {', '.join(map(repr, jobs))}")
  for address in workers:
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if not match or not 0 < int(match[2]) < 65536:
      raise InputError(f"TF_CONFIG: a worker must be host:port with a port from 1 to 65535, got {address!r}")
  if len({*workers}) < len(workers):
    raise InputError(f"TF_CONFIG lists a worker twice: {', '.join(workers)}")
  return Cluster(tuple(workers), index)


def wait_for_workers(cluster: Cluster, timeout: float, log_fn: Callable[[str], None] = _print_to_stderr) -> None:
  """Wait until all other workers are there, and say at once and then every 30 s who is not.

  TensorFlow would wait in a call that hears no signal and says nothing. So each worker listens at its own address
  until it has reached all others, there or at TensorFlow's server that takes its place.

  Args:
    cluster: the workers.
    timeout: seconds.
    log_fn: takes each line.

  Raises:
    InputError (a ValueError): if the own address is in use.
    WorkerLost: if not all are there in time.
  """
  own = cluster.workers[cluster.task]
  missing = [address for address in cluster.workers if address != own]
  begin, line = time.monotonic(), 0
  try:
    both = socket.has_dualstack_ipv6()  # IPv4 and IPv6, as TensorFlow's server listens
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server(("", int(own.rpartition(":")[2])), family=family, dualstack_ipv6=both)
  except OSError as error:
    raise InputError(f"worker {cluster.task} cannot listen at {own}: {error.strerror or error}") from None
  with listener:
    while missing := [address for address in missing if not _answers(address)]:
      passed = time.monotonic() - begin
      if passed >= timeout:
        raise WorkerLost(
          f"worker {cluster.task} of {len(cluster.workers)} has waited {passed:.0f} s for {_named(missing)}"
        )
      if passed >= line:
        log_fn(
          f"waiting for {len(missing)} of {len(cluster.workers)} workers: {_named(missing)} "
          f"(this is worker {cluster.task}; {passed:.0f} s of {timeout:.0f})"
        )
        line += _EVERY
      time.sleep(min(0.5, max(0.0, begin + timeout - time.monotonic())))


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
  """Context for a call of TensorFlow that keeps Python from hearing signals: they end the process."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    for number, handler in before.items():
      if handler is not signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _answers(address: str) -> bool:
  host, _, port = address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    return True
  except OSError:
    return False


def _named(addresses: Sequence[str]) -> str:
  more = f" and {len(addresses) - 8} more" if len(addresses) > 8 else ""
  return ", ".join(addresses[:8]) + more

"""TF_CONFIG is checked, and workers wait for each other with a line that says for whom."""

import json
import re
import socket
import threading
import time

import pytest

from flowpp_tf.core.errors import InputError, WorkerLost
from flowpp_tf.devices import cluster
from support.programs import LIMIT, free_addresses

WORKERS = ["host0:2222", "host1:2222"]


def config(workers=WORKERS, kind="worker", index=0, **more):
  return json.dumps({"cluster": {"worker": workers, **more}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
  "text",
  [
    "{",
    "[]",
    "null",
    "1",
    "{}",
    '{"cluster": []}',
    '{"cluster": {"worker": "a"}}',
    '{"task": {}}',
    "[" * 100_000,
    config(index=2),
    config(index=-1),
    config(index="0"),
    config(index=True),
    config(index=None),
    config(kind="chief"),
    config(workers={}),
    config(workers=[]),
  ],
)
def test_what_is_no_cluster_is_shown_what_one_is(monkeypatch, text):
  monkeypatch.setenv("TF_CONFIG", text)
  with pytest.raises(InputError, match="TF_CONFIG must be like"):
    cluster.cluster_of_environment()


@pytest.mark.parametrize(
  "workers, more, message",
  [
    (["host0"], {}, "must be host:port"),
    (["host0:0"], {}, "port from 1 to 65535"),
    (["host0:65536"], {}, "65535"),
    (["host0:-1"], {}, "host:port"),
    ([":22"], {}, "host:port"),
    (["host 0:22"], {}, "host:port"),
    ([5], {}, "host:port"),
    (["http://a:22"], {}, "host:port"),
    (["a:1", "a:1"], {}, "lists a worker twice"),
    (WORKERS, {"ps": ["a:1"]}, "must list workers only"),
  ],
)
def test_addresses_are_checked(monkeypatch, workers, more, message):
  monkeypatch.setenv("TF_CONFIG", config(workers, **more))
  with pytest.raises(InputError, match=message):
    cluster.cluster_of_environment()


def test_a_cluster_is_read(monkeypatch):
  monkeypatch.setenv("TF_CONFIG", config(["host0:2222", "[::1]:1"], index=1))
  assert cluster.cluster_of_environment() == (("host0:2222", "[::1]:1"), 1)
  monkeypatch.delenv("TF_CONFIG")
  assert cluster.cluster_of_environment() is None


def test_three_workers_meet_though_none_waits_for_the_last_to_leave():
  addresses, met, all_met = free_addresses(3), [], threading.Barrier(3)

  def work(task):
    time.sleep(0.4 * task)
    cluster.wait_for_workers(cluster.Cluster(addresses, task), LIMIT)
    met.append(task)
    with socket.create_server(("", int(addresses[task].rpartition(":")[2]))):  # as TensorFlow's server
      all_met.wait(LIMIT)

  threads = [threading.Thread(target=work, args=(task,)) for task in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(met) == [0, 1, 2]


def has_ipv6():
  try:
    socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    return True
  except OSError:
    return False


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 on loopback")
def test_a_worker_is_reached_by_ipv6_and_by_ipv4():
  (own, missing), reached = free_addresses(2), []
  port = int(own.rpartition(":")[2])

  def reach(line):
    for host in ("127.0.0.1", "::1"):
      with socket.create_connection((host, port), timeout=LIMIT):
        reached.append(host)

  with pytest.raises(WorkerLost):
    cluster.wait_for_workers(cluster.Cluster((f"[::1]:{port}", missing), 0), 0.1, reach)
  assert reached == ["127.0.0.1", "::1"]


def test_who_is_waited_for_is_said_and_the_wait_ends(capsys):
  addresses = free_addresses(2)
  with pytest.raises(WorkerLost, match=rf"worker 0 of 2 has waited \d+ s for {addresses[1]}"):
    cluster.wait_for_workers(cluster.Cluster(addresses, 0), 1)
  line = rf"waiting for 1 of 2 workers: {addresses[1]} \(this is worker 0; \d+ s of 1\)"
  assert re.search(line, capsys.readouterr().err)


def test_an_address_in_use_is_said():
  addresses = free_addresses(2)
  with socket.create_server(("", int(addresses[0].rpartition(":")[2]))):
    with pytest.raises(InputError, match=f"worker 0 cannot listen at {addresses[0]}"):
      cluster.wait_for_workers(cluster.Cluster(addresses, 0), 1)

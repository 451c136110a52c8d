"""TF_CONFIG is checked, and a worker names those that it waits for."""

import json
import signal
import socket

import pytest

from flowpp_tf.core.errors import InputError
from flowpp_tf.devices import strategy
from support.programs import finish, free_addresses, start
from support.runs import TINY_RUN

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
    strategy.workers_of_environment()


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
    strategy.workers_of_environment()


def test_a_cluster_is_read(monkeypatch):
  monkeypatch.setenv("TF_CONFIG", config(["host0:2222", "[::1]:1"], index=1))
  assert strategy.workers_of_environment() == ["host0:2222", "[::1]:1"]
  monkeypatch.delenv("TF_CONFIG")
  assert not strategy.workers_of_environment()


@pytest.mark.slow
@pytest.mark.workers
def test_a_worker_names_those_that_it_waits_for_and_hears_signals_meanwhile(tmp_path):
  own, other = free_addresses(2)
  process = start("train", *TINY_RUN, f"--workdir={tmp_path}", TF_CONFIG=config([own, other]))
  line = next(line for line in process.stdout if "waits for" in line)
  assert line.strip() == f"train: worker 0 of 2, {own}, waits for {other}"
  process.send_signal(signal.SIGTERM)
  finish(process, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.workers
def test_an_address_in_use_is_an_error_in_one_line(tmp_path):
  own, other = free_addresses(2)
  with socket.create_server(("", int(own.rpartition(":")[2]))):
    process = start("train", *TINY_RUN, f"--workdir={tmp_path}", TF_CONFIG=config([own, other]))
    assert "train: error: this worker cannot be started: " in finish(process, 2).splitlines()[-1]

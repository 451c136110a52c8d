"""Threads of the codec: order, errors, an end that somebody does not wait for, and one thread for each product."""

import threading

import numpy as np
import pytest

from flowpp_tf.compression import threads
from flowpp_tf.io import budget

threadpoolctl = pytest.importorskip("threadpoolctl")


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
  monkeypatch.setattr(threads, "_CORES", 4)


def test_results_come_in_order_while_later_parts_are_computed():
  second_began = threading.Event()

  def function(part):
    if part == 1:
      second_began.set()
    if part == 0:
      assert second_began.wait(60)  # beside this one
    return 10 * part

  assert list(threads.ahead(function, range(9))) == [*range(0, 90, 10)]
  assert list(threads.ahead(function, [])) == []
  assert list(threads.ahead(str, [1, 2], most=1)) == ["1", "2"]


def test_errors_come_after_the_results_before_them():
  def function(part):
    if part == 3:
      raise LookupError("three")
    return part

  def parts():
    yield from range(2)
    raise OSError("no more")

  found = []
  with pytest.raises(LookupError, match="three"):
    found.extend(threads.ahead(function, range(9)))
  with pytest.raises(OSError, match="no more"):
    found.extend(threads.ahead(function, parts()))
  assert found == [0, 1, 2, 0, 1]


def test_no_more_parts_are_taken_than_threads_are_there():
  taken = []
  results = threads.ahead(lambda part: part, (taken.append(i) or i for i in range(100)), most=3)
  assert next(results) == 0 and taken == [0, 1, 2]
  results.close()


def test_threads_stop_when_nobody_waits_for_them():
  ended = threading.Event()

  def function(part):
    try:
      while part:  # for ever
        threads.check_stopped()
    except threads.Stopped:
      ended.set()
      raise

  results = threads.ahead(function, range(2))
  next(results)
  results.close()
  assert ended.wait(60)
  threads.check_stopped()  # not here


def test_a_call_in_the_background_has_a_result_or_an_error():
  assert threads.in_background(divmod, 7, 2)() == (3, 1)
  with pytest.raises(ZeroDivisionError):
    threads.in_background(divmod, 7, 0)()


@pytest.mark.parametrize("parts", [1, 3])
def test_each_product_has_one_thread(parts):
  """Also a single one: the threads of a short product wait for each other where other processes are busy."""
  np.ones((2, 2)) @ np.ones((2, 2))
  limits = lambda _: [
    library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"
  ]
  before = limits(0)
  for found in [*threads.in_threads(limits, range(parts)), threads.in_background(limits, 0)()]:
    assert found and set(found) == {1}
  assert limits(0) == before


def test_there_is_room_for_as_many_as_fit_and_for_one_alone():
  order, held = [], threading.Event()

  def large():
    with budget.room(70):
      held.set()
      order.append("large begins")
      waiting.wait(60)
      order.append("large ends")

  def small():
    with budget.room(40):
      order.append("small begins")

  waiting = threading.Event()
  with budget.use(budget.Budget(memory=100)):
    first = threading.Thread(target=large)
    first.start()
    assert held.wait(60)
    with budget.room(30):  # beside it
      pass
    second = threading.Thread(target=small)
    second.start()
    second.join(0.2)
    waiting.set()
    first.join()
    second.join()
    with budget.room(1000):
      pass
  assert order == ["large begins", "large ends", "small begins"]

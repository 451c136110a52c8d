"""Threads of the codec: order, errors, memory, an end that nobody waits for, and one thread for each product."""

import concurrent.futures
import io
import threading

import numpy as np
import pytest

from flowpp_tf.compression import archive, threads
from flowpp_tf.compression.batches import largest_batch, segment_pays_in_threads
from flowpp_tf.compression.networks import Networks
from flowpp_tf.io import budget
from support.archives import small_codec

threadpoolctl = pytest.importorskip("threadpoolctl")


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
  monkeypatch.setattr(threads, "CORES", 4)


def test_results_come_in_order_while_later_parts_are_computed():
  second_began = threading.Event()

  def function(part):
    if part == 1:
      second_began.set()
    if part == 0:
      assert second_began.wait(60)  # beside this one
    return 10 * part

  assert list(threads.map_ahead(function, range(9))) == [*range(0, 90, 10)]
  assert list(threads.map_ahead(function, [])) == []


def test_errors_come_after_the_results_before_them():
  def function(part):
    if part == 3:
      raise LookupError("three")
    return part

  def parts():
    yield from range(2)
    raise OSError("no more")

  def memory(part):
    if part == 1:
      raise ValueError("too large")
    return 0

  found = []
  with pytest.raises(LookupError, match="three"):
    found.extend(threads.map_ahead(function, range(9)))
  with pytest.raises(OSError, match="no more"):
    found.extend(threads.map_ahead(function, parts()))
  with pytest.raises(ValueError, match="too large"):
    found.extend(threads.map_ahead(function, range(9), memory))
  assert found == [0, 1, 2, 0, 1, 0]


def test_no_more_parts_are_taken_than_there_are_cores():
  taken = []
  results = threads.map_ahead(lambda part: part, (taken.append(i) or i for i in range(100)))
  assert next(results) == 0 and taken == [0, 1, 2, 3]
  results.close()


def test_as_many_parts_are_begun_as_fit_in_the_memory_and_one_always():
  taken, amounts = [], [60, 30, 20, 500, 40, 40, 40]
  parts = (taken.append(i) or i for i in range(len(amounts)))
  with budget.use(budget.Budget(memory=100)):
    results = threads.map_ahead(str, parts, memory=amounts.__getitem__)
    # Those that are begun, and one that waits: 60 + 30, 30 + 20, 20, 500, 40 + 40, 40 + 40, 40.
    for number, count in enumerate([3, 4, 4, 5, 7, 7, 7]):
      assert next(results) == str(number) and len(taken) == count
  assert list(results) == []


def test_threads_stop_when_nobody_waits_for_them():
  began, ended = threading.Event(), threading.Event()

  def function(part):
    if part == 0:
      assert began.wait(60)
    try:
      while part:  # for ever
        began.set()
        threads.check_stopped()
    except concurrent.futures.CancelledError:
      ended.set()
      raise

  results = threads.map_ahead(function, range(2))
  next(results)
  results.close()
  assert ended.wait(60)
  threads.check_stopped()  # not here


def test_a_call_in_the_background_has_a_result_or_an_error():
  assert threads.in_background(divmod, 7, 2)() == (3, 1)
  with pytest.raises(ZeroDivisionError):
    threads.in_background(divmod, 7, 0)()


def limits(_=None):
  return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


LIMITS = limits()  # before any test


@pytest.mark.parametrize("parts", [1, 3])
def test_each_product_has_one_thread(parts):
  """Also a single one: the threads of a short product wait for each other where other processes are busy."""
  for found in [*threads.in_threads(limits, range(parts)), threads.in_background(limits, 0)()]:
    assert found == {1}
  assert limits() == LIMITS


def test_products_have_their_threads_again_when_a_call_outlasts_its_iterator(monkeypatch):
  compute = threads._compute
  began, end, ended = (threading.Event() for _ in range(3))

  def computed(call):
    compute(call)
    if end.is_set():
      ended.set()

  def function(part):
    if part:
      began.set()
      assert end.wait(60)
    assert began.wait(60)

  monkeypatch.setattr(threads, "_compute", computed)
  results = threads.map_ahead(function, range(2))
  next(results)
  results.close()
  end.set()
  assert ended.wait(60) and limits() == LIMITS


@pytest.mark.needs("constriction")
def test_the_threads_of_all_batches_together_have_a_limit():
  """Half of the memory is for two: four batches, of one part each, must not make it four."""
  memory = small_codec().memory
  with budget.use(budget.Budget(memory=4 * memory.at_a_time * memory.network)):
    networks = Networks(small_codec().model)
  inside, most, third = [], [], threading.Event()

  def network(x):
    inside.append(1)
    most.append(len(inside))
    if len(inside) > 2:
      third.set()
    third.wait(0.2)  # for others that come in
    inside.pop()
    return x

  batches = [threading.Thread(target=networks._in_chunks, args=(network, np.zeros((1, 1)))) for _ in range(4)]
  for batch in batches:
    batch.start()
  for batch in batches:
    batch.join()
  assert len(most) == 4 and max(most) <= 2


@pytest.mark.needs("constriction")
@pytest.mark.parametrize("memory, count", [(4 << 30, 4), (40 << 20, 2)])
def test_segments_of_which_several_are_coded_at_a_time_share_the_memory(monkeypatch, memory, count):
  """Of 30 MiB each, with little that comes out: an archive of large segments takes no more on a machine of many cores.

  One segment more than fits is taken, as its memory is not known before.
  """
  nothing = np.zeros((0, *small_codec().model.image_shape), np.uint8)
  extras = [np.random.default_rng(i).bytes(1 << 20) for i in range(6)]
  taken, segment_at = [], archive.ArchiveReader._segment_at

  def read(self, position):
    taken.append(position)
    return segment_at(self, position)

  monkeypatch.setattr(archive.ArchiveReader, "_segment_at", read)
  with budget.use(budget.Budget(memory=memory)):
    file = io.BytesIO()
    writer = archive.ArchiveWriter(file, small_codec())
    contents = ((taken.append(extra) or archive.SegmentContent(nothing, extra)) for extra in extras)
    taken_before = []
    assert writer.write_segments(contents, lambda images: taken_before.append(len(taken))) == [False] * 6
    assert taken_before[0] == count
    writer.close()
    taken.clear()
    results = archive.ArchiveReader(file).decoded(small_codec())
    assert next(results).extra == extras[0] and len(taken) == count
    assert [result.extra for result in results] == extras[1:]


def test_a_part_that_does_not_pay_beside_others_waits_for_them():
  running, most = [], []

  def function(part):
    running.append(part)
    most.append((part, len(running)))
    together.wait(60) if part < 2 else None
    running.remove(part)
    return part

  together = threading.Barrier(2)  # the first two are computed at a time
  assert list(threads.map_ahead(function, range(5), pays=lambda part: part < 2)) == [0, 1, 2, 3, 4]
  assert all(count == 1 for part, count in most if part >= 2)


@pytest.mark.needs("constriction")
def test_threads_are_for_large_batches():
  """In small arrays NumPy's operations are shorter than what threads wait for each other."""
  portable, largest = small_codec(), largest_batch(small_codec())
  assert not portable.pays_in_threads(1) and portable.pays_in_threads(1 << 13)
  assert [segment_pays_in_threads(portable, count) for count in (1000, 16 * largest, 0)] == [False, True, True]


def test_threads_are_no_more_than_cores(monkeypatch):
  """Parts of a batch, and its check, have a thread of their own only where segments leave a core."""
  monkeypatch.setattr(threads, "CORES", 2)
  together, began = threading.Barrier(2), threading.Event()

  def own(part):
    if part < 2:
      together.wait(60)  # two parts of the only segment are computed at a time
    return threading.get_ident()

  def in_pool(segments):  # which this thread makes itself otherwise, so that one of the pool is free
    for parts in segments:
      began.clear()
      yield parts
      assert began.wait(60)

  def segment(parts):
    began.set()
    check = threads.in_background(own, 9)
    return {threading.get_ident()}, {*threads.in_threads(own, parts)}, {check()}

  ((here, of_parts, _),) = threads.map_ahead(segment, in_pool([range(2)]))
  assert here < of_parts and len(of_parts) == 2

  def with_another(parts):
    began.set()
    together.wait(60)
    found = segment(parts)
    together.wait(60)
    return found

  for here, of_parts, of_check in threads.map_ahead(with_another, in_pool(2 * [range(2, 6)])):
    assert here == of_parts == of_check

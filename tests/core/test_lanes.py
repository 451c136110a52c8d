"""Cores, and lanes of a CPU: the same numbers as the whole batch, one trace for all of them, and clear errors."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import evaluation, training
from flowpp_tf.core import environment, lanes
from flowpp_tf.layers.dropout import Dropout
from support.comparing import assert_same, graph_of
from support.marks import exhaustive
from support.models import SMALL, TINY, small_config, small_images
from support.programs import ROOT, run
from support.refusing import refuses
from support.runs import TINY_RUN
from support.training_steps import train_state


def test_the_mask_of_a_part_is_that_part_of_the_mask():
  layer, seed = Dropout(0.3), tf.constant([1, 2])
  for image in ((4, 3, 2), (5, 1, 1)):  # a multiple of eight numbers, and not
    whole = layer.keep_mask([7, *image], True, seed)
    for first, size in ((0, 7), (2, 3), (6, 1)):
      part = layer.keep_mask([size, *image], True, seed, tf.constant(first))
      np.testing.assert_array_equal(part, whole[first : first + size])
  many = layer.keep_mask([64, 8, 8, 4], True, seed).numpy().reshape(64, -1)
  assert abs(many.mean() - 0.7) < 0.02  # 5.6 standard errors
  assert len({row.tobytes() for row in many}) == 64  # no two images have the same


def test_the_draws_go_on_where_the_low_half_of_the_counter_ends():
  layer, seed = Dropout(0.5), tf.constant([3, 4])
  far = [layer.keep_mask([1, 4, 4, 1], True, seed, tf.constant(first, tf.int64)).numpy() for first in (0, 2**40, 2**61)]
  assert not any(np.array_equal(far[0], mask) for mask in far[1:])


@pytest.mark.slow
@pytest.mark.parametrize("count", [exhaustive(1), 5])
def test_samples_latents_bounds_and_scores_do_not_depend_on_lanes(use_lanes, small_model, count):
  images = small_images(8)[:count]

  def results():
    batched = evaluation.BatchedModel(small_model, batch_size=3)
    bits = evaluation.evaluate_bits_per_dim(small_model, images, 2, batch_size=3)
    return [
      batched.sample(count, seed=1),
      batched.encode(images, seed=2),
      evaluation.Scorer(small_model, 2)(images),
      [b.bits_per_dim for b in bits.bounds],
    ]

  whole = results()
  use_lanes(2)
  assert_same(tf.nest.flatten(results()), tf.nest.flatten(whole), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"weight_norm": True, "invertible_conv": "none"},
    {"act_norm_per_position": False, "invertible_conv_init": "whitening"},
    {"dequantization": "none"},
  ],
)
def test_initialisation_does_not_depend_on_lanes(use_lanes, changes):
  images = small_images(16)

  def initialised():
    keras.utils.set_random_seed(0)
    model = fpp.FlowPlusPlus(small_config(SMALL, dtype="float64", **changes))
    return model.initialize(images, overwrite=True), *model.get_weights()

  whole = initialised()
  use_lanes(2)
  assert_same(initialised(), whole, rtol=1e-9, atol=1e-12)


def test_an_error_in_one_lane_does_not_leave_the_other_waiting(use_lanes):
  use_lanes(2)

  def fails_in_the_second(x):
    if x[0] > 0:
      raise ZeroDivisionError("in a lane")
    return lanes.whole_batch(x)

  with pytest.raises(ZeroDivisionError, match="in a lane"):
    lanes.in_eager_lanes(fails_in_the_second, tf.constant([0.0, 0.0, 1.0, 1.0]), filters=1)


def test_lanes_of_an_eager_evaluation_begin_with_a_number_of_values(monkeypatch):
  monkeypatch.setattr(lanes, "_count", 2)
  sizes = []
  count_images = lambda x: sizes.append(len(x)) or x
  for images, expected in ((682, [682]), (684, [342, 342])):  # 2^22 / (8 x 8 x 96) is 682.7
    sizes.clear()
    assert len(lanes.in_eager_lanes(count_images, tf.zeros([images, 8, 8, 1]), filters=96)) == images
    assert sizes == expected


@pytest.mark.parametrize("count", [1, 3])
def test_moments_are_those_of_the_batch(use_lanes, count):
  use_lanes(count)
  x = np.random.RandomState(0).randn(6, 5, 3) + 100  # a mean that is large beside the deviation
  for axes in (1, 2):
    found = []

    def lane(part, axes=axes, found=found):
      found.append(lanes.moments(part, axes))
      return part

    lanes.in_eager_lanes(lane, tf.constant(x), filters=1)
    assert len(found) == count
    for mean, variance in found:
      np.testing.assert_allclose(mean, x.mean(tuple(range(axes))), rtol=1e-12)
      np.testing.assert_allclose(variance, x.var(tuple(range(axes))), rtol=1e-9)


@pytest.mark.slow
def test_lanes_of_a_step_are_calls_of_one_function_that_reads_the_weights_where_they_are(use_lanes):
  use_lanes(2)
  state = train_state(TINY)
  graph = graph_of(lambda: training.train_step(state, tf.constant(small_images(8))))
  calls = [
    op for op in graph.get_operations() if op.type == "StatefulPartitionedCall" and "lane" in op.get_attr("f").name
  ]
  assert len(calls) == 2 and len({op.get_attr("f").name for op in calls}) == 1
  handles = [[t for t in op.inputs if t.dtype == tf.resource] for op in calls]
  assert len(handles[0]) > 50 and [t.ref() for t in handles[0]] == [t.ref() for t in handles[1]]


@pytest.mark.parametrize("size, expected", [(8, 4), (6, 3), (7, 1), (None, 4)])
def test_a_batch_has_the_most_lanes_that_divide_it(use_lanes, size, expected):
  use_lanes(4)
  assert lanes.lane_count(size) == expected


@pytest.mark.slow
@pytest.mark.parametrize("batch_size, expected", [(3, 1), (4, 2)])
def test_a_run_has_as_many_lanes_as_divide_its_batch(batch_size, expected):
  program = "from flowpp_tf.core import lanes; import tensorflow as tf; lanes.usable_cores = lambda: [0, 1]"
  ask = f"print(lanes.use_cpu_lanes(0, {batch_size}), tf.config.threading.get_intra_op_parallelism_threads())"
  result = run(["-c", f"{program}\n{ask}"], cwd=ROOT)
  assert result.out.split() == [str(expected), "0" if expected == 1 else "1"], result.error  # 0: one per core


def test_a_number_of_lanes_that_cannot_be_is_a_value_error_that_names_it():
  refuses("`batch_size` must be at least 1, got 0", lanes.use_cpu_lanes, 0, 0)
  refuses("`cpu_splits` must be at least 0, got -1", lanes.use_cpu_lanes, -1)
  refuses("`cpu_splits` must be set before TensorFlow uses its devices", lanes.use_cpu_lanes, 2)
  assert lanes.use_cpu_lanes() == 1  # automatic, and too late


@pytest.mark.slow
def test_a_run_takes_the_same_steps_with_and_without_lanes(tmp_path):
  flags = [*TINY_RUN, "--filters=8", "--steps=8", "--validate_every=1", "--optimizer=sgd"]
  results = [run("train", *flags, f"--cpu_splits={n}", f"--workdir={tmp_path / str(n)}", cwd=tmp_path) for n in (1, 2)]
  assert [result.code for result in results] == [0, 0], results[-1].error
  assert "1 lane(s)" in results[0].out and "2 lane(s)" in results[1].out
  rows = [(tmp_path / str(n) / "metrics.jsonl").read_text().splitlines() for n in (1, 2)]
  assert len(rows[0]) == len(rows[1]) == 8
  for one, two in zip(*rows):
    one, two = map(json.loads, (one, two))
    for name in ("bits_per_dim", "val_bits_per_dim"):
      np.testing.assert_allclose(two[name], one[name], rtol=1e-5)


def test_without_affinities_all_cores_are_usable(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  assert environment.usable_cores() == [*range(os.cpu_count())]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds a process to cores")
def test_a_process_on_one_core_codes_on_one_thread():
  # as `taskset` does; the codec had a thread for each core of the machine
  code = (
    "import os; os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])\n"
    "from flowpp_tf.compression import threads; print(threads.CORES)"
  )
  assert run(["-c", code], cwd=ROOT).out == "1\n"

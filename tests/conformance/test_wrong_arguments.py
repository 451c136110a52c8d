"""Wrong arguments: a public callable refuses them by one clear line that names the argument, or gives a right answer.

The table of public callables says what each argument is, and so which values are wrong for it; see
tests/support/wrong_values.py. That the table is complete is tested here too. The quick tests take one of eighty
values of each argument, in graphs of every second callable, the slow ones one of twenty; `--exhaustive -m exhaustive`
takes all.
"""

import collections
import warnings
import zlib

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from support import outcomes, shape_checks
from support.marks import exhaustive, slow
from support.public_callables.surface import FOREIGN_ARGUMENTS, WITHOUT_CASES, WITHOUT_ROWS, public_callables
from support.public_callables.table import GRAPHS, ROOMS
from support.public_callables.world import CONTEXT, IMAGES, POINTS, World
from support.wrong_values import NAN, REFUSED

ROWS = {name: row for rows in ROOMS.values() for name, row in rows.items()}
EXEMPT = {name for names in WITHOUT_ROWS.values() for name in names.split()}
# Values that a graph takes in as tensors.
_OF_REALS = "another dtype tensor, integer tensor, boolean tensor, complex tensor, NaN, infinite, -infinite"
_OF_SHAPES = "an axis too few, an axis too many, a number, another height, another number of channels, one image"
_OF_IMAGES = "divided, fractional, negative floats, too large, too large uint8"
_OF_LABELS = "negative, no label, 2^40, one too many"
_OF_GRAPHS = f"{_OF_REALS}, {_OF_SHAPES}, {_OF_IMAGES}, {_OF_LABELS}".split(", ")


@pytest.fixture(scope="module")
def world():
  return World()


@pytest.fixture(autouse=True)
def as_for_users():
  """Without the checks of types that only tests have, and with warnings that are no errors."""
  with shape_checks.suspended(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


# --- Is the table complete? ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
  """The arguments that the rows of each callable have."""
  found = collections.defaultdict(set)
  for name, row in ROWS.items():
    found[name.partition("/")[0]] |= {*row.arguments}
  return found


def test_every_public_callable_and_every_argument_has_a_row(rows):
  missing = []
  for name, arguments in public_callables().items():
    if name not in EXEMPT:
      exempt = {*FOREIGN_ARGUMENTS, *" ".join(WITHOUT_CASES.get(name, {}).values()).split()}
      missing += [f"{name}({argument})" for argument in arguments if argument not in rows[name] | exempt]
  assert not missing, missing


def test_nothing_is_exempt_that_does_not_exist_or_has_a_row(rows):
  assert not EXEMPT - {*public_callables()}
  assert not EXEMPT & {*rows}
  assert not {*WITHOUT_CASES} - {*public_callables()}


# --- Every wrong value of every argument --------------------------------------------------------


@pytest.mark.parametrize("part", [80, slow(20), exhaustive(1)])
@pytest.mark.parametrize("room", ROOMS)
def test_wrong_arguments_are_refused_or_answered_right(world, room, part):
  found, cases = [], 0
  rows = {name: row for name, row in ROOMS[room].items() if part < 80 or not row.slow}
  for name, row in rows.items():
    for argument, values in outcomes.wrong_values(row, world).items():
      start = zlib.crc32(f"{name}{argument}".encode()) % part
      for wrong in values[start % max(1, min(part, len(values))) :: part]:
        cases += 1
        outcome = outcomes.outcome(row, world, argument, wrong)
        if not outcome.right:
          found.append(f"{name}({argument}): {wrong.name}: {outcome.kind} {outcome.what}")
  assert cases, "no case"
  assert not found, "\n".join(found)


# --- In graphs ----------------------------------------------------------------------------------


def in_graph(row, argument):
  """The row in a `tf.function`, which takes the argument as a tensor of a known shape."""

  def make(world):
    function = row.make(world)

    def call(**values):
      traced = tf.function(lambda value: function(**{**values, argument: value}), autograph=False)
      return traced(tf.constant(values[argument]))

    return call

  return row._replace(make=make)


@pytest.mark.parametrize("part", [80, slow(20), exhaustive(1)])
def test_wrong_tensors_are_refused_or_nan_or_answered_right_in_graphs(world, part):
  """A wrong number is refused, or gives NaN where a number follows from it."""
  found = []
  for name, argument in ((name, argument) for name in [*GRAPHS][:: 1 + (part == 80)] for argument in GRAPHS[name]):
    outcomes.call(ROWS[name], world)  # makes what the row is about, outside of a graph
    row = in_graph(ROWS[name], argument)
    values = outcomes.wrong_values(row, world)[argument]
    values = [wrong for wrong in values if wrong.name.startswith("size") or wrong.name in _OF_GRAPHS]
    for wrong in values[zlib.crc32(f"{name}{argument}".encode()) % min(part, len(values)) :: part]:
      wrong = wrong._replace(rule=NAN) if wrong.rule == REFUSED else wrong
      outcome = outcomes.outcome(row, world, argument, wrong, errors=(tf.errors.InvalidArgumentError,))
      if not outcome.right:
        found.append(f"{name}({argument}): {wrong.name} in a graph: {outcome.kind} {outcome.what}")
  assert not found, "\n".join(found)


# --- Any size, any dtype, any number ------------------------------------------------------------

# A function of the world, and the event of its values.
EVENTS = {
  "flow": (lambda w: w.flow.log_prob, (2,)),
  "flow given a context": (lambda w: w.flow_given.given(CONTEXT[:1]).log_prob, (2,)),
  "layer": (lambda w: w.layer.distribution.log_prob, (2,)),
  "chain": (lambda w: lambda x: w.flow.bijector.inverse_and_log_det(x)[1], (2,)),
}
DTYPES = ("float32", "float64", "float16", "int32", "bool", "complex64")
_CONTAINERS = {"tensor": tf.constant, "array": lambda a: a, "list": lambda a: a.tolist()}


@pytest.mark.parametrize("name", EVENTS)
@given(
  shape=st.lists(st.integers(0, 3), max_size=4),
  dtype=st.sampled_from(DTYPES),
  container=st.sampled_from(sorted(_CONTAINERS)),
)
def test_any_shape_and_dtype_gives_a_value_of_each_example_or_an_error_that_says_what_it_must_be(
  world, name, shape, dtype, container
):
  make, event = EVENTS[name]
  function, array = make(world), np.resize(POINTS, shape).astype(dtype)
  value = _CONTAINERS[container](array)
  fits = len(shape) >= 1 and (*shape[-1:],) == event
  casts = dtype != "complex64" if container != "tensor" else dtype == "float32"
  if container == "list" and 0 in shape:  # lists without numbers have neither their shape nor a dtype
    return
  if not (fits and casts):
    with pytest.raises((ValueError, TypeError), match=r"`[xy]` must"):
      function(value)
    return
  result = np.reshape(function(value), shape[:-1])
  expected = [function(tf.constant(example[np.newaxis])) for example in array.astype("float32").reshape(-1, 2)]
  np.testing.assert_allclose(result.ravel(), np.ravel(expected), rtol=1e-4, atol=1e-5)


NUMBERS = st.one_of(
  st.integers(-2, 3), st.floats(allow_nan=True, allow_infinity=True), st.booleans(), st.none(), st.text(max_size=3)
)


@given(n=NUMBERS)
def test_any_number_of_samples_is_drawn_or_refused(world, n):
  valid = isinstance(n, int) and not isinstance(n, bool)
  for draw, least, name in (
    (lambda: world.flow.sample(n, seed=(0, 1)), 0, "sample_shape"),
    (lambda: world.layer.sample(n, seed=(0, 1)), 0, "n"),
    (lambda: world.model.sample_latents(n, seed=0), 1, "n"),
    (lambda: world.model.distribution.sample(n, seed=(0, 1)), 1, "sample_shape"),
    (lambda: world.model.log_prob_bound(IMAGES, n, seed=0)[tf.newaxis], 1, "num_samples"),
  ):
    if valid and n >= least:
      assert len(draw()) in (n, 1)
    elif valid and n == 0:
      continue  # no samples of a distribution
    else:
      with pytest.raises((ValueError, TypeError), match=f"`{name}"):
        draw()

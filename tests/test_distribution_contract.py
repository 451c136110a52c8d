"""TFP's contract of a distribution: copies and slices of the flow and of both dequantizations."""

import numpy as np
import pytest
import tensorflow as tf

from conformance_rows import ROWS

IMAGES, NOISE = ROWS["flow"].inputs("float64")
MAKE = {
    "flow": lambda: ROWS["flow"].make("float64"),
    "uniform": lambda: ROWS["uniform_dequantizer"].make("float64")(IMAGES),
    "variational": lambda: ROWS["variational_dequantizer"].make("float64")(IMAGES),
}
rows = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@rows
def test_a_copy_has_the_same_density_and_the_same_variables(make):
  distribution = make()
  copy = distribution.copy(name="renamed")
  assert copy.name == "renamed" and type(copy) is type(distribution)
  assert {id(v) for v in copy.variables} == {id(v) for v in distribution.variables}
  np.testing.assert_array_equal(copy.log_prob(NOISE), distribution.log_prob(NOISE))


@rows
def test_shapes_are_those_of_samples_and_densities(make):
  distribution = make()
  x, log_prob = distribution.experimental_sample_and_log_prob(2, seed=(0, 1))
  assert x.shape == (2, *distribution.batch_shape, *distribution.event_shape)
  assert log_prob.shape == (2, *distribution.batch_shape)
  np.testing.assert_array_equal(distribution.batch_shape_tensor(), distribution.batch_shape)
  np.testing.assert_array_equal(distribution.event_shape_tensor(), distribution.event_shape)
  assert x.dtype == distribution.dtype == tf.float64


@pytest.mark.parametrize("name", ["uniform", "variational"])
def test_a_dequantization_refuses_to_be_sliced(name):
  # TFP slices parameters with a batch; this one's batch is that of the images it was made of.
  with pytest.raises(NotImplementedError, match="slice the images"):
    MAKE[name]()[1:3]

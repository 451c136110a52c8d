"""Checks of arguments: by annotations, of pixels in every floating dtype, of arrays of any byte order."""

from collections.abc import Iterable, Iterator, Sequence
import functools
import math
import pathlib
import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import data, evaluation
from flowpp_tf.core.checks import check_arguments, check_pixels
from flowpp_tf.core.errors import with_error
from support.models import perturb, small_config
from support.refusing import refuses


@pytest.mark.parametrize(
  "hint, value", [(Iterable[int], [1]), (Iterator[int], iter([1])), (type[int], int), (set[int] | None, {1})]
)
def test_annotations_with_parameters_are_checked_by_their_class(hint, value):
  """On Python 3.10 these are instances of `type`, by which `isinstance` fails."""

  @check_arguments
  def function(values: hint, count: int = 1):
    return values, count

  assert function(value, 2) == (value, 2)
  refuses("`values` must be an? `", function, 1.5, 2)
  refuses("`count` must be an integer", function, value, 2.5)


@pytest.mark.parametrize("hint", [Any, np.ndarray, np.ndarray | None, Sequence[np.ndarray] | np.ndarray])
def test_arrays_and_anything_are_left_to_the_function(hint):
  @check_arguments
  def function(values: hint, *others: int):
    return values, others

  assert function("text", 1.5) == ("text", (1.5,))


@pytest.mark.parametrize(
  "hint, value", [(dict[str, int] | None, types.MappingProxyType({"a": 1})), (list[str | None], ["a", None])]
)
def test_any_mapping_is_a_dict_and_items_of_several_kinds_are_left_to_the_function(hint, value):
  @check_arguments
  def function(values: hint):
    return values

  assert function(value) is value
  refuses("`values` must be a (mapping|sequence)", function, "text")


def test_sequences_are_checked_with_what_they_hold():
  @check_arguments
  def function(sizes: Sequence[int]):
    return sizes

  assert function((1, 2)) == (1, 2)
  refuses("`sizes` must be a sequence of integers", function, [1.5])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
  "values, message",
  [([0.5, 3], "must be integers in 0 .. 255"), ([np.nan, 3], "must be finite"), ([3, 512], "must lie in 0 .. 255")],
)
def test_pixels_that_are_none_are_an_error_in_every_floating_dtype(dtype, values, message):
  check_pixels(np.array([0, 3], dtype), 256)
  refuses(message, check_pixels, np.array(values, dtype), 256)


def test_a_figure_has_its_error_unless_one_example_has_none():
  assert with_error(1.82, 0.018) == "1.8200 +- 0.0180"
  assert with_error(1.82, math.nan) == with_error(1.82, None) == "1.8200"
  assert with_error(0.5, 0.25, "+.2f") == "+0.50 +- 0.25"
  assert with_error(1.5, 0.0, ".1f") == "1.5 +- 0.0"


def test_every_error_is_written_by_it():
  package = pathlib.Path(fpp.__file__).parent
  own = {"core/errors.py"}
  files = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
  assert {name for name, text in files.items() if "+- {" in text} == own


REAL = small_config(dequantization="none")
DEEP = small_config(levels=1 << 16)
RNG = np.random.RandomState(0)
FIELDS = RNG.normal(size=[4, *REAL.image_shape]).astype(np.float32)
FRAMES = RNG.randint(0, DEEP.levels, [4, *DEEP.image_shape]).astype(np.uint16)


@functools.cache
def model(config):
  made = perturb(fpp.FlowPlusPlus(config))
  made.initialized = True
  made.compile("sgd")
  return made


def adapted(x):
  made = fpp.FlowPlusPlus(REAL)
  made.adapt(x)
  return made.standardization.mean.numpy()


ENTRANCES = {
  "log_prob": (FIELDS, lambda x: model(REAL).log_prob(x)),
  "log_prob of a list": (FIELDS, lambda x: model(REAL).log_prob([*x])),
  "log_prob_bound": (FRAMES, lambda x: model(DEEP).log_prob_bound(x, seed=0)),
  "distribution": (FIELDS, lambda x: model(REAL).distribution.log_prob(x)),
  "adapt": (FIELDS, adapted),
  "predict": (FIELDS, lambda x: model(REAL).predict(x, verbose=0)),
  "Scorer": (FRAMES, lambda x: evaluation.Scorer(model(DEEP), 1).log_likelihood(x)),
  "encode": (FIELDS, lambda x: evaluation.BatchedModel(model(REAL)).encode(x)),
  "evaluate_bits_per_dim": (FRAMES, lambda x: evaluation.evaluate_bits_per_dim(model(DEEP), x).best.bits_per_dim),
  "bijector": (FIELDS, lambda x: fpp.bijectors.PixelsToLogit(1 << 16).inverse(x)),
  "bijector of a list": (FIELDS, lambda x: fpp.bijectors.PixelsToLogit(1 << 16).inverse([*x])),
  "parameter": (FIELDS, lambda x: fpp.bijectors.Standardization(x, np.ones_like(FIELDS)).mean),
  "batches": (FRAMES, lambda x: next(iter(data.evaluation_batches(x, 4)))),
  "data set": (FRAMES, lambda x: next(iter(data.evaluation_batches(data.ImageDataset("a", 1 << 16, x, x, x).test, 4)))),
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_numbers_do_not_depend_on_the_byte_order_of_their_array(name):
  array, call = ENTRANCES[name]
  swapped = array.astype(array.dtype.newbyteorder())
  assert not swapped.dtype.isnative
  np.testing.assert_array_equal(np.asarray(call(swapped)), np.asarray(call(array)))

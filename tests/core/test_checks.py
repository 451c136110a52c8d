"""Annotations say what arguments must be, pixels are checked in every floating dtype, figures have their errors."""

from collections.abc import Iterable, Iterator, Sequence
import math
import pathlib
import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.core.checks import check_arguments, check_pixels
from flowpp_tf.core.errors import InputError, with_error


@pytest.mark.parametrize(
  "hint, value", [(Iterable[int], [1]), (Iterator[int], iter([1])), (type[int], int), (set[int] | None, {1})]
)
def test_annotations_with_parameters_are_checked_by_their_class(hint, value):
  """On Python 3.10 these are instances of `type`, by which `isinstance` fails."""

  @check_arguments
  def function(values: hint, count: int = 1):
    return values, count

  assert function(value, 2) == (value, 2)
  with pytest.raises(InputError, match="`values` must be an? `"):
    function(1.5, 2)
  with pytest.raises(InputError, match="`count` must be an integer"):
    function(value, 2.5)


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
  with pytest.raises(InputError, match="`values` must be a (mapping|sequence)"):
    function("text")


def test_sequences_are_checked_with_what_they_hold():
  @check_arguments
  def function(sizes: Sequence[int]):
    return sizes

  assert function((1, 2)) == (1, 2)
  with pytest.raises(InputError, match="`sizes` must be a sequence of integers"):
    function([1.5])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
  "values, message",
  [([0.5, 3], "must be integers in 0 .. 255"), ([np.nan, 3], "must be finite"), ([3, 512], "must lie in 0 .. 255")],
)
def test_pixels_that_are_none_are_an_error_in_every_floating_dtype(dtype, values, message):
  check_pixels(np.array([0, 3], dtype), 256)
  with pytest.raises(ValueError, match=message):
    check_pixels(np.array(values, dtype), 256)


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

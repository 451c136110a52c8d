"""Annotations say what arguments must be; those that say nothing of one value are left to the function."""

from collections.abc import Iterable, Iterator, Sequence

import pytest

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError


@pytest.mark.parametrize("hint", [Iterable[int], Iterator[int], type[int], set[int], Iterable[int] | None])
def test_parametrized_annotations_that_are_not_checked_do_not_get_in_the_way(hint):
  """On Python 3.10 these are instances of `type`, by which `isinstance` fails."""

  @check_arguments
  def function(values, count: int = 1):
    return values, count

  function.__wrapped__.__annotations__["values"] = hint
  assert function([1], 2) == ([1], 2)
  with pytest.raises(InputError, match="`count` must be an integer"):
    function([1], 2.5)


def test_sequences_are_checked_with_what_they_hold():
  @check_arguments
  def function(sizes: Sequence[int]):
    return sizes

  assert function((1, 2)) == (1, 2)
  with pytest.raises(InputError, match="`sizes` must be a sequence of integers"):
    function([1.5])

"""Calls that are refused."""

import pytest

from flowpp_tf.core.errors import InputError


def refuses(message, function, *arguments, **more):
  """Assert that a function refuses its arguments, by an `InputError` of one line in which a pattern is found."""
  with pytest.raises(InputError, match=message) as caught:
    function(*arguments, **more)
  assert "\n" not in str(caught.value), caught.value

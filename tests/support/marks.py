"""Marks of single rows of a table of tests."""

import pytest


def slow(*values, **options):
  """Return a row of `pytest.mark.parametrize` that only the slow tests have."""
  return pytest.param(*values, marks=pytest.mark.slow, **options)


def quick_rows(names, quick):
  """Return rows of names, all of them slow but those in `quick`."""
  unknown = set(quick) - set(names)
  assert not unknown, unknown
  return [name if name in quick else slow(name) for name in names]


def exhaustive(*values, **options):
  """Return a row that neither the quick tests nor the slow ones have."""
  return pytest.param(*values, marks=pytest.mark.exhaustive, **options)

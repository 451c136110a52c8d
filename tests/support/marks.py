"""Marks of single rows of a table of tests."""

import pytest


def slow(*values, **options):
  """Return a row of `pytest.mark.parametrize` that only the slow tests have."""
  return pytest.param(*values, marks=pytest.mark.slow, **options)


def quick_rows(names, quick, others_stand_for=()):
  """Return rows of names: slow, but those in `quick`; exhaustive those that others stand for."""
  unknown = {*quick, *others_stand_for} - set(names)
  assert not unknown, unknown
  return [name if name in quick else (exhaustive if name in others_stand_for else slow)(name) for name in names]


def exhaustive(*values, **options):
  """Return a row that neither the quick tests nor the slow ones have."""
  return pytest.param(*values, marks=pytest.mark.exhaustive, **options)

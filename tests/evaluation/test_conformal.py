"""Conformal thresholds and p-values: what they promise, counted over all ranks and over draws."""

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.evaluation import conformal_p_value, conformal_threshold


@pytest.mark.parametrize("count, share", [(19, 0.05), (20, 0.05), (99, 0.01), (100, 0.1), (7, 0.3)])
def test_the_share_of_false_alarms_over_all_ranks_of_the_new_score(count, share):
  """The new score has each rank among count + 1 distinct ones equally often, so the probability is a count."""
  scores = np.arange(count + 1.0)
  rests = [np.delete(scores, i)[::-1] for i in range(count + 1)]
  above = np.mean([new > conformal_threshold(rest, share) for new, rest in zip(scores, rests)])
  assert share - 1 / (count + 1) < above <= share
  p_values = np.concatenate([conformal_p_value(rest, scores[[i]]) for i, rest in enumerate(rests)])
  np.testing.assert_allclose(np.sort(p_values), np.arange(1, count + 2) / (count + 1))


@pytest.mark.parametrize("count", [19, 20, 99])
def test_two_sided_p_values_are_at_most_p_with_at_most_that_probability(count):
  """Over all ranks of the new score; both ends are as far out."""
  scores = np.arange(count + 1.0)
  rests = [np.delete(scores, i) for i in range(count + 1)]
  p_values = np.concatenate([conformal_p_value(rest, scores[[i]], True) for i, rest in enumerate(rests)])
  for share in np.unique(p_values):
    assert np.mean(p_values <= share) <= share + 1e-9
  assert p_values[0] == p_values[-1] == p_values.min() == 2 / (count + 1) and p_values.max() == 1


def test_equal_scores_raise_no_more_alarms():
  calibration = np.repeat([1.0, 2.0], [10, 9])
  assert conformal_threshold(calibration, 0.1) == 2.0
  np.testing.assert_allclose(conformal_p_value(calibration, np.array([2.0, 1.0, 2.5, 0.0])), [0.5, 1, 0.05, 1])


def test_too_few_scores_raise_no_alarm_and_none_are_refused():
  assert conformal_threshold(np.arange(18.0), 0.05) == np.inf
  assert conformal_threshold(np.arange(18.0), 1 - 1e-12) == 0.0  # any but the smallest score may be an alarm
  with pytest.raises(fpp.InputError, match="^`calibration` must have at least one score"):
    conformal_threshold(np.zeros([0]), 0.05)
  with pytest.raises(fpp.InputError, match="^`false_alarms` must be between 0 and 1, got 1.0"):
    conformal_threshold(np.arange(18.0), 1.0)

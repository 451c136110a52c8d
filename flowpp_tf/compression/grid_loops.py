"""The loop of grids.py for compiled.py, which imports this file where Numba is installed."""

import numba
import numpy as np

from flowpp_tf.compression import grids
from flowpp_tf.compression.loops import OPTIONS

_LARGEST = grids.LARGEST
_integers, _orders, _factors = numba.int64[:, :, ::1], numba.int64[:, ::1], numba.float64[:, :, ::1]


@numba.njit(numba.boolean(_integers, _orders, _factors, numba.boolean), **OPTIONS)
def lift(n: np.ndarray, order: np.ndarray, factors: np.ndarray, backwards: bool) -> bool:
  """Permute the last axis of n and lift it in place, or undo that, by the operations of grids.py in their order.

  Args:
    n: `[N, P, C]`, of P positions.
    order: `[P, C]`, from where each integer comes.
    factors: `[P, C, C]`, of L below the diagonal and of U above.
    backwards: whether to undo it.

  Returns:
    Whether all sums were small enough; if not, n is of no use.
  """
  count, positions, channels = n.shape
  values, lifts = np.empty(channels, np.int64), 2 * (channels - 1)
  for p in range(positions):
    for image in range(count):
      for i in range(channels):
        values[i] = n[image, p, i if backwards else order[p, i]]
      for k in range(lifts):
        at = lifts - 1 - k if backwards else k
        lower = at < channels - 1
        i = at if lower else lifts - at
        total = 0.0
        for j in range(i + 1 if lower else 0, channels if lower else i):
          total = total + values[j] * factors[p, j, i]
        if not abs(total) < _LARGEST:
          return False
        change = np.int64(np.rint(total))
        values[i] += -change if backwards else change
      for i in range(channels):
        n[image, p, order[p, i] if backwards else i] = values[i]
  return True

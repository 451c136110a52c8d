"""The innermost loops of the coder, compiled by Numba where it is installed, with the bits of NumPy.

Mixtures of logistics and their inverses take most of the time of a pass. NumPy evaluates them an operation at a time,
with an array between each two; loops.py has the same operations in the same order for some values at a time. LLVM fuses
no two of them unless it is told to, and before the loops are used they have to give the bits of NumPy for some thousand
values. So archives are the same with and without them.

Compiling takes some four seconds, once so many values have come that it pays.
"""

import threading
from typing import Any

import numpy as np

from flowpp_tf.compression import exact, maps

_AFTER = 1 << 19  # values of images, for which NumPy has taken some seconds
_lock = threading.Lock()
_counted = 0


def after(count: int) -> None:
  """Count values of images that are coded; after enough of them, once, compile the loops and use them."""
  global _counted
  with _lock:
    begins = _counted < _AFTER <= _counted + count
    _counted += count
  if begins:
    use()


def use() -> bool:
  """Compile the loops and use them from now on; return False without a Numba that can, and for other bits."""
  try:
    from flowpp_tf.compression import loops  # which compiles them

    if not _same_bits(loops):
      return False
  except Exception:  # of an import, of Numba's many: NumPy does the same without it
    return False
  exact.use(loops.exp)
  maps.use(loops)
  return True


def use_numpy() -> None:
  """Use no loops from now on."""
  exact.use(None)
  maps.use(None)


def _same_bits(loops: Any) -> bool:
  """Whether the loops give what NumPy does, for numbers from all over the range of each argument."""
  rng = np.random.default_rng(0)
  for components in (1, 3, 8):
    parameters = rng.normal(size=[2 + 3 * components, 1000])
    parameters[2:] *= np.exp(rng.normal(size=1000))
    y = 4 * rng.normal(size=1000) * np.exp(rng.normal(size=1000))
    results = []
    for way in (None, loops):
      mixture = maps.Mixture(parameters, 0.0, way)
      results.append(np.stack([*mixture.forward(y), *mixture.inverse(y, 1e-6)]))
    if not np.array_equal(results[0], results[1]):
      return False
  x = np.concatenate([300 * rng.normal(size=1000), rng.normal(size=1000), [0.0, -0.0, 690, -690, 1e300, -np.inf]])
  found = np.empty_like(x)
  loops.exp(x, found)
  return np.array_equal(found, exact.exp_in_numpy(x))

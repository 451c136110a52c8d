"""The innermost loops of the coder, compiled by Numba where it is installed, with the bits of NumPy.

NumPy evaluates mixtures of logistics, lifts and layers of networks an operation at a time, with an array between each
two; loops.py, grid_loops.py and layer_loops.py have the same operations in the same order for some values at a time.
LLVM fuses no two of them unless it is told to, and before the loops are used they have to give the bits of NumPy for
some thousand values. So archives are the same with and without them.

Compiling takes some five seconds, once so many values have come that it pays.
"""

import threading
from typing import Any

import numpy as np

from flowpp_tf.compression import exact, grids, layers, maps, networks

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
    import numba

    if numba.config.DISABLE_JIT:  # the loops would run in Python, 76 times slower than NumPy
      return False
    from flowpp_tf.compression import grid_loops, layer_loops, loops  # which compiles them

    if not (_same_bits(loops) and _same_layers(layer_loops) and _same_lifts(grid_loops)):
      return False
  except Exception:  # of an import, of Numba's many: NumPy does the same without it
    return False
  exact.use(loops.exp)
  maps.use(loops)
  networks.use(layer_loops)
  grids.use(grid_loops)
  return True


def use_numpy() -> None:
  """Use no loops from now on."""
  exact.use(None)
  maps.use(None)
  networks.use(None)
  grids.use(None)


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


def _same_layers(loops: Any) -> bool:
  """Whether each kind of layer gives what it does in NumPy. One by one: a product rounds most differences off."""
  rng, shape, channels = np.random.default_rng(0), (11, 7, 9), 8
  weights = {f"{name}/kernel": rng.normal(size=[3, 3, inputs, 5]) for name, inputs in (("plain", 8), ("elu", 16))}
  weights |= {
    "point/kernel": rng.normal(size=[8, 5]),
    "norm/gamma": rng.normal(size=8),
    "norm/beta": rng.normal(size=8),
  }
  weights |= {f"{name}/bias": rng.normal(size=5) for name in ("plain", "elu", "point")}
  x = 3 * rng.normal(size=[*shape, channels]) * np.exp(2 * rng.normal(size=[*shape, 1]))
  h = 3 * rng.normal(size=[*shape, 3 * channels])
  norm, kinds = layers.LayerNorm(weights, "norm"), (("plain", False), ("elu", True), ("point", False))
  products = [(layers.Product(weights, name), elu) for name, elu in kinds]

  def results(way):
    yield layers.gated_sum(x, h[..., : 2 * channels], None, way)
    yield norm(x, way)
    yield layers.largest_of_three(h, way)
    for product, elu in products:
      yield product(x, way, elu)

  return all(map(np.array_equal, results(None), results(loops)))


def _same_lifts(loops: Any) -> bool:
  """Whether integers are lifted the same way, and back."""
  rng, shape = np.random.default_rng(0), (3, 5, 8)
  grid = grids.Grid(np.exp(rng.normal(size=shape)), rng.normal(size=shape))
  lifts = grids.Lifts(grid, np.exp(rng.normal(size=shape)), rng.normal(size=shape), rng.normal(size=[2, 4, 4]))
  n = (1e6 * rng.normal(size=[7, *shape])).astype(np.int64)
  return all(np.array_equal(lifts.lifted(n, way, None), lifts.lifted(n, way, loops)) for way in (False, True))

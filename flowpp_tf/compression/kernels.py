"""The innermost loops of the codec, compiled by Numba where it is installed, with the bits of NumPy.

NumPy evaluates mixtures of logistics and layers of networks an operation at a time, with an array between each two.
loops.py has the same operations in the same order for some values at a time, and LLVM fuses no two of them unless it is
told to. So archives are the same with and without them. Without, 40 tiles of the preset `photos` took 1.43 times as
long to encode, and 1.37 times to decode, 400 images of `digits` 1.92 and 1.79 times: CPU seconds, medians of three in
turns.

Compiling takes some four seconds, once so many values have come that it pays.
"""

import importlib
import platform
import threading
from typing import Any

_AFTER = 1 << 19  # values of images, for which NumPy has taken some seconds
_MACHINES = ("x86_64", "AMD64")  # whose bits tests compare with NumPy's: with others, no other machine would decode


class Kernels:
  """The loops that are used.

  Attributes:
    loops: the module loops.py, from when its loops are compiled; None for NumPy.
  """

  def __init__(self) -> None:
    self.loops: Any = None
    self._lock = threading.Lock()
    self._counted = 0

  def count(self, values: int) -> None:
    """Count values of images that are coded; after enough of them, once, compile the loops and use them."""
    with self._lock:
      begins = self._counted < _AFTER <= self._counted + values
      self._counted += values
    if begins:
      self.use_loops()

  def use_loops(self) -> bool:
    """Compile the loops and use them from now on; return False without a Numba that can."""
    if platform.machine() not in _MACHINES:
      return False
    try:
      numba = importlib.import_module("numba")
      if numba.config.DISABLE_JIT:  # the loops would run in Python, 76 times slower than NumPy
        return False
      self.loops = importlib.import_module("flowpp_tf.compression.loops")  # which compiles them
    except Exception:  # of an import, of Numba's many: NumPy does the same without it
      return False
    return True


KERNELS = Kernels()

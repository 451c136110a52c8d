"""Figures as the programs print them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from flowpp_tf.evaluation import BitsPerDim


def headed_table(name: str, result: BitsPerDim, digest: str) -> str:
  """Return the table of bits/dim of a split, whose first line names the split and the digest of the data."""
  head, *rows = str(result).splitlines()
  return "\n".join([f"{name}: {head}; data {digest}", *rows])


def three_digits(value: float) -> str:
  """Return a positive number with three significant digits, without an exponent."""
  places = 2 - math.floor(math.log10(value)) if value > 0 else 0
  return f"{value:.{max(0, places)}f}"


def size_text(count: float) -> str:
  """Return a number of bytes with three significant digits."""
  for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if count >= factor:
      return f"{three_digits(count / factor)} {unit}"
  return f"{count:.0f} bytes"

"""The budget for files from outside: what a file says that it holds is claimed here before it is read, built or looped.

    with budget.use(Budget(memory=8 << 30)):
      claim("memory", 4 * count, "the weights of 'a.safetensors'")

A few kilobytes can claim to be gigabytes. A reader takes the sizes that a header states, claims them, and only then
allocates; work is linear in what was claimed. `--memory`, `--max_pixels` and `--max_output` of programs raise limits.
"""

from collections.abc import Iterator
import contextlib
import dataclasses

from flowpp_tf.core.errors import InputError

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


class BudgetError(InputError):
  """Raised for what would take more than the budget; it names the thing, the amount, and the flag for more."""


@dataclasses.dataclass(frozen=True)
class Budget:
  """What one file from outside, or one part of it, may take.

  Attributes:
    bytes_in: bytes of a file that is read into memory.
    memory: bytes of memory for what a file describes: arrays, a model, the images of a segment.
    pixels: pixels of an image; images with more than an eighth of it are decoded one at a time.
    items: entries, arrays, labels, layers: whatever is looped over.
    bytes_out: bytes that may come out of a file that is `ratio` times smaller, or more.
    ratio: images that are worth a model are not compressed by more than this factor.

  Examples:
    >>> from flowpp_tf.io.budget import Budget, claim, use
    >>> with use(Budget(items=10)):
    ...   claim("items", 11, "the index of 'a.fpp'")
    Traceback (most recent call last):
      ...
    flowpp_tf.io.budget.BudgetError: the index of 'a.fpp' has 11 items; at most 10 are read
  """

  bytes_in: int = 4 << 30
  memory: int = 4 << 30
  pixels: int = 64 << 20
  items: int = 1 << 20
  bytes_out: int = 128 << 20
  ratio: int = 100


_WORDS = {
  "bytes_in": "{what} has {amount}; at most {limit} are read (--memory raises the limit)",
  "memory": "{what} would take {amount} of memory; at most {limit} are allowed (--memory raises the limit)",
  "pixels": "{what} has {amount} pixels; at most {limit} are decoded (--max_pixels raises the limit)",
  "items": "{what} has {amount} items; at most {limit} are read",
}
_current = Budget()


def current() -> Budget:
  """Return the budget of this process."""
  return _current


@contextlib.contextmanager
def use(budget: Budget) -> Iterator[Budget]:
  """Use another budget, in all threads, until the end of the context."""
  global _current
  before = _current
  _current = budget
  try:
    yield budget
  finally:
    _current = before


def claim(kind: str, amount: int, what: str) -> None:
  """Raise a `BudgetError` unless the budget has room.

  Args:
    kind: "bytes_in", "memory", "pixels" or "items", a field of `Budget`.
    amount: how many bytes, pixels or items.
    what: what they are of, for the message: "the weights of 'a.safetensors'".
  """
  limit = getattr(current(), kind)
  if amount > limit:
    show = size_text if kind in ("bytes_in", "memory") else "{:,}".format
    raise BudgetError(_WORDS[kind].format(what=what, amount=show(amount), limit=show(limit)))


def claim_output(amount: int, size: int, what: str) -> None:
  """Raise a `BudgetError` if `size` bytes of a file would become suspiciously many.

  Args:
    amount: bytes that come out.
    size: bytes that they are made from.
    what: the file, for the message.
  """
  if amount > current().bytes_out and amount > current().ratio * size:
    raise BudgetError(
      f"{what}: {size_text(size)} would become {size_text(amount)}, more than {_current.ratio} times as many; at most "
      f"{size_text(_current.bytes_out)} may (--max_output raises the limit)"
    )


def size_text(size: int) -> str:
  """Return a number of bytes as text: "1.5 GiB"."""
  for unit, factor in _UNITS:
    if size >= factor:
      return f"{size / factor:,.3g} {unit}" if size < 1000 * factor else f"{size / factor:,.0f} {unit}"
  return f"{size:,} bytes"

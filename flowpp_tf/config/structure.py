"""The structure of a flow as text: `columns:4,squeeze,channels:2,columns:3` is the CIFAR-10 model.

columns:N    split by columns, N coupling steps, merge    [H, W, C] -> [H, W, C]
channels:N   split by channels, N coupling steps, merge   [H, W, C] -> [H, W, C]
squeeze      2x2 pixels become channels                   [H, W, C] -> [H / 2, W / 2, 4 C]
"""

from collections.abc import Iterable
import dataclasses

from flowpp_tf.core.errors import InputError
from flowpp_tf.types import Shape

_NEIGHBOURS = 3  # of a tile: left, upper, upper left, see tiles/neighbours.py


@dataclasses.dataclass(frozen=True)
class Stage:
  """One entry of a structure: its kind, its number of couplings, the shape of its input."""

  kind: str
  couplings: int
  shape: tuple[int, ...]

  @property
  def split_shape(self) -> tuple[int, ...]:
    """Shape of the couplings' input: both halves next to each other on the channels."""
    height, width, channels = self.shape
    return (height, width // 2, 2 * channels) if self.kind == "columns" else self.shape

  @property
  def output_shape(self) -> tuple[int, ...]:
    """Shape of the output."""
    height, width, channels = self.shape
    return (height // 2, width // 2, 4 * channels) if self.kind == "squeeze" else self.shape


def parse_structure(text: str, image_shape: Shape, name: str = "structure") -> list[Stage]:
  """Return the stages of a structure applied to images of a shape.

  Args:
    text: the structure.
    image_shape: `(H, W, C)`.
    name: name of the field that has the text, for messages.

  Raises:
    InputError: if the text cannot be parsed, or a stage cannot halve the shape of its input.
  """
  stages: list[Stage] = []
  shape = tuple(image_shape)
  for entry in text.split(","):
    kind, _, count = entry.strip().partition(":")
    if kind == "squeeze" and not count:
      stage = Stage(kind, 0, shape)
      halved = {"height": shape[0], "width": shape[1]}
    elif kind in ("columns", "channels") and count.isdecimal() and len(count) < 5 and int(count) > 0:
      stage = Stage(kind, int(count), shape)
      halved = {"width": shape[1]} if kind == "columns" else {"number of channels": shape[2]}
    else:
      raise InputError(f"`{name}` {text!r} has an entry {entry.strip()!r}; expected columns:N, channels:N or squeeze")
    for what, size in halved.items():
      if size % 2:
        raise InputError(
          f"`{name}` {text!r} cannot take images of shape {tuple(image_shape)}: at "
          f"{entry.strip()!r} the {what} is {size}, which cannot be halved"
        )
    stages.append(stage)
    shape = stage.output_shape
  return stages


def size_step(structures: Iterable[Iterable[str]]) -> tuple[int, int]:
  """Return the rows and columns that the size of an image must be a multiple of.

  Args:
    structures: the kinds of the stages, "squeeze", "columns" or "channels", of each flow of the model.
  """
  rows = columns = 1
  for kinds in structures:
    squeezed = 1
    for kind in kinds:
      if kind == "squeeze":
        squeezed *= 2
      rows = max(rows, squeezed)
      columns = max(columns, squeezed)
      if kind == "columns":
        columns = max(columns, 2 * squeezed)
  return rows, columns


def context_channels(channels: int) -> int:
  """Return the number of channels of the context of tiles with so many channels."""
  return _NEIGHBOURS * (channels + 1) + 1

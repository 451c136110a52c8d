"""A model in one of the tiers, and a probe that tells whether two machines compute the same numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from flowpp_tf.compression.batches import batch_step
from flowpp_tf.compression.bits_back_coder import BitsBackCoder, Networks
from flowpp_tf.compression.description import CodecModel
from flowpp_tf.compression.memory import CodecMemory
from flowpp_tf.compression.networks import PortableNetworks
from flowpp_tf.compression.stack import Normal, Stack, check_constriction
from flowpp_tf.core.checks import MOST_LEVELS, check_arguments, check_count, pixel_dtype
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.budget import claim, claim_output
from flowpp_tf.tiles.neighbours import TileLayout

if TYPE_CHECKING:
  from flowpp_tf.models import FlowPlusPlus

TIERS = ("portable", "float64", "exact-build")
MAX_DIMS = 1 << 18  # values per image


class TieredCodec:
  """A model in one of the tiers, ready to encode and decode.

  Args:
    model: `FlowPlusPlus`, or a `CodecModel`, which is enough for the tier "portable".
    tier: "portable": networks in fixed point, which decode on every machine. "float64" and "exact-build": networks in
      TensorFlow, in float64 and float32, which are faster. They decode where a probe of the networks gives the same
      numbers.
    from_bytes: how many bytes the model was read from, of one that came with an archive: its memory is then claimed as
      what comes out of them, since few weights can describe attention over thousands of positions. None for others.

  Raises:
    InputError (a ValueError): for an unknown tier, a tier that needs a `FlowPlusPlus`, or without constriction.

  Examples:
    >>> codec = fpp.compression.TieredCodec(fpp.FlowPlusPlus.from_preset("digits"), tier="portable")
    >>> data = fpp.compress(codec, np.zeros([2, 8, 8, 1], np.uint8))
  """

  @check_arguments
  def __init__(self, model: FlowPlusPlus | CodecModel, tier: str = "portable", from_bytes: int | None = None) -> None:
    check_constriction()
    if tier not in TIERS:
      raise InputError(f"`tier` must be one of {', '.join(TIERS)}, got {tier!r}")
    if from_bytes is not None:
      check_count("from_bytes", from_bytes, high=2**48)
    self.tier = tier
    try:
      self.model = model if isinstance(model, CodecModel) else CodecModel.from_model(model)
      shape, levels = self.model.image_shape, self.model.levels
      if not 0 < self.model.num_dims <= MAX_DIMS or min(shape) < 1 or not 2 <= levels <= MOST_LEVELS:
        raise InputError(
          f"the codec is for images of up to {MAX_DIMS} values and 2 to {MOST_LEVELS:,} levels, "
          f"got shape {shape} and {levels} levels"
        )
      memory = CodecMemory.from_model(self.model)
      claim("memory", memory.model + memory.batch(2), "the codec model")
      if from_bytes is not None:
        claim_output(memory.model + memory.batch(2), from_bytes, "the memory of the archive's model")
      self.networks = self._make_networks(model)
      self.codec = BitsBackCoder(self.model, self.networks)
      self.model_hash = self.model.sha256()[:32]
      self.probe = self._probe()
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
      if not isinstance(model, CodecModel) or isinstance(error, InputError):
        raise
      raise InputError(f"the codec model is invalid: {type(error).__name__}: {error}") from None

  def _make_networks(self, model) -> Networks:
    if self.tier == "portable":
      return PortableNetworks(self.model)
    if isinstance(model, CodecModel):
      raise InputError(f"the tier {self.tier!r} needs the model in TensorFlow")
    from flowpp_tf.compression.tensorflow_networks import TensorFlowNetworks  # "portable" needs no TensorFlow

    return TensorFlowNetworks(model, "float64" if self.tier == "float64" else "float32")

  def _probe(self):
    """Return a hash of what encoding two images, and popping normal noise, gives on this machine."""
    shape, levels = self.model.image_shape, self.model.levels
    count = 2 * int(np.prod(shape))
    images = (
      (np.arange(count, dtype=np.int64) * 40503 % 65537 * levels >> 17).reshape(2, *shape).astype(pixel_dtype(levels))
    )
    words = np.arange(1, 32 * count + 4097, dtype=np.uint64)
    words *= np.uint64(2654435761)
    words >>= np.uint64(7)
    words &= np.uint64(0xFFFFFFFF)
    stack = Stack(words.astype(np.uint32), sealed=True)
    spread = np.arange(1024) / 64
    digest = hashlib.sha256(Normal(spread, 1 + spread * spread, noise=True).pop(stack).astype("<i8").tobytes())
    layout, batches = None, [[0, 1]]
    if self.codec.sees_neighbours:  # the second image sees the first, and is cut off at the edge
      step = self.codec.tile_step
      layout, batches = TileLayout.from_runs(shape, [(shape[0], shape[1] + step[1], 0, 2)], step), [[0], [1]]
    try:
      for batch in batches:
        batch_step(self.codec, images, batch, layout).push(stack, images[batch])
    # The kind of failure is a result too, but not a lack of memory: other machines have more.
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
      digest.update(type(error).__name__.encode())
    digest.update(stack.words().astype("<u4").tobytes())
    return digest.hexdigest()[:32]

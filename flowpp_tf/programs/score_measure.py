"""What bin/score measures of images: scores, p-values, and maps of whole pictures."""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import itertools
import math
import os
import pathlib

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.evaluation import REAL_SCORES, BitMaps, Scorer, conformal_p_value, heat_map, scores_of
from flowpp_tf.programs import run

_FORMATS = {"log_likelihood": ".4f", "png_bytes": "d"}
# Bits per value from black to pale yellow, from the mean: a value of a normal distribution has 0.7 less at its centre,
# and 5.8 more at three standard deviations.
_REAL_RANGE = -1.0, 6.0


@dataclasses.dataclass
class Measure:
  """Scores images of a batch.

  Attributes:
    scorer: `Scorer` of images of the model's size.
    batch_size: batch size.
    maps: `BitMaps`, of pictures of any size; None for images of the model's size without maps.
    folder: for heat maps; None for none.
    sound: bits/dim of sound images, `[N]`, for p-values; None for none.
    seen: number of images with scores that are among the sound ones.
  """

  scorer: Scorer
  batch_size: int
  maps: BitMaps | None = None
  folder: pathlib.Path | None = None
  sound: np.ndarray | None = None
  seen: int = dataclasses.field(default=0, init=False)
  _sound_digests: set[bytes] = dataclasses.field(default_factory=set, init=False)
  _written: set[pathlib.Path] = dataclasses.field(default_factory=set, init=False)

  def calibrate(self, items: Iterable[tuple]) -> None:
    """Measure sound images, `(name, image, error)` each; raise an `InputError` if one cannot be read."""
    items, bits = iter(items), list[np.ndarray]()
    while batch := list(itertools.islice(items, self.batch_size)):
      for name, _, error in batch:
        if error:
          raise InputError(f"--calibrate: {name!r} cannot be read: {error}")
      bits.append(self._scores([image for _, image, _ in batch])["bits_per_dim"])
      self._sound_digests.update(_digest(image) for _, image, _ in batch)
    self.sound = np.concatenate(bits)

  def texts(self, names: Sequence[str], images: Sequence[np.ndarray]) -> list[dict[str, str]]:
    """Return the scores of images as text, and write their maps."""
    scores = self._scores(images, names)
    if self.scorer.typical is None:
      del scores["typicality"]
    if self.sound is not None:
      self.seen += sum(_digest(image) in self._sound_digests for image in images)
      scores["p_value"] = conformal_p_value(self.sound, scores["bits_per_dim"], two_sided=True)
    return [
      {name: format(value, _FORMATS.get(name, ".6f")) for name, value in zip(scores, values, strict=True)}
      for values in zip(*scores.values(), strict=True)
    ]

  def _scores(self, images, names=()):
    """The scores of images; maps are written for those that have a name."""
    if self.maps is None:
      return self.scorer(np.stack(images), self.batch_size)
    parts = []
    for image, values, name in itertools.zip_longest(images, self.maps(images, self.batch_size), names):
      if self.folder is not None and name is not None:
        self._write(self.folder, name, values, image.shape[-1])
      log_likelihood = np.array([-values.sum() * math.log(2)])
      parts.append(scores_of(image[np.newaxis], log_likelihood, self.scorer.typical, self.scorer.names))
    return {name: np.concatenate([part[name] for part in parts]) for name in self.scorer.names}

  def _write(self, folder, name, values, channels):
    """Write a heat map; all of a run have the same colours if the run's typical bits/dim are known."""
    mean = float(values.mean()) if self.scorer.typical is None else channels * self.scorer.typical
    low, high = 0.0, 2 * mean if mean > 0 else None
    if self.scorer.names == REAL_SCORES:  # whose bits change with the unit of the data, all by the same
      low, high = (mean + channels * bits for bits in _REAL_RANGE)
    path = folder / (name if name.lower().endswith(".png") else f"{name}.png")
    if ".." in path.parts:
      raise InputError(f"--maps: the name {name!r} leads out of the folder")
    if path in self._written:
      raise InputError(f"--maps: {str(path)!r} is the map of {name!r} and of an image before it; rename one of them")
    self._written.add(path)
    try:
      os.makedirs(path.parent, exist_ok=True)
    except OSError as error:
      raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
    picture = heat_map(values, low, high)
    run.replace(path, lambda file: picture.save(file, format="PNG"))


def _digest(image):
  """Return what tells whether two images have the same values."""
  return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

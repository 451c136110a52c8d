"""Initial weights of a run in place of a data-dependent initialisation, for a warm start or fine-tuning."""

import dataclasses
import os
import pathlib

from flowpp_tf.core.checks import check_arguments
from flowpp_tf.core.errors import InputError, unknown_name
from flowpp_tf.io.files import file_sha256
from flowpp_tf.io.gate import reading, reason
from flowpp_tf.io.model_folders import ABOUT, is_address, presets
from flowpp_tf.io.weights_file import WEIGHTS, read_weights, weights_by_path
from flowpp_tf.pretrained.official import load_official_weights
from flowpp_tf.pretrained.presets import open_preset
from flowpp_tf.pretrained.stored_config import FlowPlusPlusLike
from flowpp_tf.tiles.cutting import resize_middle, unit_of
from flowpp_tf.types import Path


@dataclasses.dataclass(frozen=True)
class InitialWeights:
  """The file of trained weights that a source names.

  Attributes:
    source: what the user named.
    path: the file.
    sha256: of the file.
    unchecked: whether the file may lack a checksum.

  Examples:
    >>> weights = fpp.models.InitialWeights.find("digits")
    >>> weights.load(fpp.FlowPlusPlus.from_preset("digits"))
  """

  source: str
  path: pathlib.Path
  sha256: str
  unchecked: bool = False

  @classmethod
  @check_arguments
  def find(cls, source: Path, unchecked: bool = False) -> "InitialWeights":
    """Return the weights that `source` names.

    Args:
      source: a preset's name or address, the directory of a run or of a preset, or an `.npz` file with the arrays of
        the published release.
      unchecked: whether weights without a checksum are used.

    Raises:
      InputError (a ValueError): if no such weights exist.
    """
    source = os.fsdecode(source)
    path = pathlib.Path(source).expanduser()
    if path.is_dir() and not (path / ABOUT).is_file():
      path /= WEIGHTS  # of a run
    elif path.is_dir() or source in presets() or is_address(source):
      preset = path.resolve() if path.is_dir() else source
      _, folder, _ = open_preset(preset, unchecked)
      path = folder / WEIGHTS
      unchecked = True  # preset.json has its checksum
    elif not source.lower().endswith(".npz"):
      raise unknown_name("`init_from` (a preset, the directory of a run, or an .npz file)", source, presets())
    with reading(path):
      return cls(source, path, file_sha256(path), unchecked)

  @check_arguments
  def load(self, model: FlowPlusPlusLike) -> None:
    """Set the weights of a model, whose images may have another height and width.

    Weights of each position are then resized: their edges stay, and their middle is repeated or left out.

    Raises:
      InputError (a ValueError): if they are another architecture's, or the file has changed since it was found.
    """
    with reading(self.path):
      if file_sha256(self.path) != self.sha256:
        raise InputError(f"the weights of `init_from` {self.source!r} have changed since the run began: {self.path}")
    if self.path.suffix == ".npz":
      load_official_weights(model, self.path)
      return
    weights = read_weights(self.path, unchecked=self.unchecked)
    try:
      for name, weight in weights_by_path(model).items():
        array = weights.arrays.get(name)
        is_by_position = len(weight.shape) == 3 and weight.name != "kernel"
        if is_by_position and array is not None and array.ndim == 3:
          unit = unit_of(weight.shape, model.config.image_shape, model.config.size_step)
          weights.arrays[name] = resize_middle(array, weight.shape, unit)
      weights.load(model)
    except Exception as error:  # Keras raises many
      raise InputError(f"the weights of `init_from` {self.source!r} do not fit the model: {reason(error)}") from None

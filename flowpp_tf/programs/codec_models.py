"""The codec's view of a run's model, kept beside its weights so that it can be read without TensorFlow."""

import pathlib

from flowpp_tf.compression import ArchiveReader, CodecModel, TieredCodec
from flowpp_tf.compression.archive import ArchiveError
from flowpp_tf.core.errors import InputError
from flowpp_tf.io.files import write_file
from flowpp_tf.io.model_folders import is_address, name_of_preset
from flowpp_tf.programs import process


def codec_model_name(model_hash: str) -> str:
  """Return the name of the file that holds the model with a hash."""
  return f"codec_model.{model_hash[:12]}.npz"


def save_codec_model(workdir: pathlib.Path, model: CodecModel) -> None:
  """Write a run's `CodecModel` unless it is there; those of earlier weights stay, which earlier archives need."""
  path = workdir / codec_model_name(model.sha256())
  try:
    if not path.exists():
      write_file(path, model.to_bytes())
  except OSError as error:
    process.warn(
      f"{str(path)!r} cannot be written, so that this run's archives need TensorFlow to be decoded: {error.strerror}"
    )


def coder_for_archive(
  reader: ArchiveReader, workdir: str | None, preset: str | None, model: str | None, unchecked: bool = False
) -> TieredCodec:
  """Return the coder of an archive.

  Args:
    reader: of the archive.
    workdir: directory of a run, or None.
    preset: name or folder of a preset, or None.
    model: file of a `CodecModel`, or None.
    unchecked: whether to use weights that have lost their checksum.

  Raises:
    InputError (a ValueError): if the model that made the archive is not among these, nor in the archive.
  """
  given = [name for name in (workdir, preset, model) if name is not None]
  if len(given) > 1:
    raise InputError("give the model as --workdir, --preset or --model, one of them")
  tier, wanted = reader.header.tier, reader.header.model
  if not given and reader.model is None:
    raise ArchiveError(
      f"the archive does not hold its model (hash {wanted[:12]}...); give it as --preset or "
      f"--workdir, or its {codec_model_name(wanted)} as --model"
    )
  if tier == "portable":
    folder = workdir or (preset and f"presets/{_name(preset)}")
    stored = pathlib.Path(model or pathlib.Path(folder or "") / codec_model_name(wanted))
    known = CodecModel.load(stored) if model or (folder and stored.is_file()) else reader.model
    if known is not None and (model or not given or known.sha256()[:32] == wanted):
      return TieredCodec(known, tier, reader.header.embedded if known is reader.model else None)
  elif not workdir and not preset:
    raise InputError(f"an archive of the tier {tier!r} needs the model in TensorFlow: give --preset or --workdir")
  return TieredCodec(_load_model(workdir, preset, wanted, unchecked), tier)


def _name(preset):
  """The name of a preset's copy; the preset itself need not be there."""
  return name_of_preset(preset) if is_address(preset) else pathlib.Path(preset).name


def _load_model(workdir, preset, wanted, unchecked):
  try:
    process.import_tensorflow()
    from flowpp_tf.models import FlowPlusPlus
    from flowpp_tf.training import Workdir
  except ImportError as error:
    raise InputError(
      f"the weights of this model are read by TensorFlow, which is not installed ({error}); give its "
      f"{codec_model_name(wanted)} as --model"
    ) from None
  if preset is not None:
    return FlowPlusPlus.from_preset(preset, unchecked=unchecked)
  return Workdir(workdir, unchecked).load()[0]

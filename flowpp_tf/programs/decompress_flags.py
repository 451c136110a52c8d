"""Give the images of an archive back that bin/compress wrote.

bin/decompress my_photos.fpp --preset=photos --output=my_photos
bin/decompress test_split.fpp --workdir=runs/mine --output=test_split.npy
bin/decompress my_photos.fpp --preset=photos --output=some --files=cat.png,dog.png
bin/decompress my_photos.fpp --list

An archive of files becomes a folder: pixels as PNG, other files as they were. It is OUTPUT.partial until all files are
written; after a stop, the same command writes what is missing. An archive of arrays becomes a .npy file. If an archive
is damaged, what can be decoded is written, what is lost is named, and the exit code is 2. An archive of the tier
portable needs no TensorFlow to be decoded.
"""

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.io.model_folders import presets
from flowpp_tf.programs import flag_kinds

COMMON = "preset workdir model output files list".split()
NEEDS_TENSORFLOW = False  # but for models in its formats


def define_flags() -> None:
  """Define the program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run whose model made the archive.")
  flag_kinds.define_name("preset", None, presets(), "Preset whose model made the archive, or its folder.", others=True)
  flags.DEFINE_string("model", None, "File codec_model.HASH.npz that bin/compress wrote beside the weights.")
  flags.DEFINE_bool("accept_unchecked", False, "Use weights that have lost the checksum that they were written with.")
  flags.DEFINE_string("output", None, "Folder, new or empty, for an archive of files; .npy file for one of arrays.")
  flags.DEFINE_list("files", None, "Only these files; all if not given.")
  flags.DEFINE_bool("list", False, "Say what the archive holds, and write nothing.")


def plan_from_flags(archive: str | None = None) -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given = flags.FLAGS
  if archive is None:
    raise InputError("give the archive: bin/decompress ARCHIVE --output=...")
  if (given.output is None) != given.list:
    raise InputError("give --output, or --list, which writes nothing; one of them")
  return f"listing {archive}" if given.list else f"decompressing {archive} to {given.output}"

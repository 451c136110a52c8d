"""Compress images without loss, with a trained model.

bin/compress --preset=photos --images=my_photos --output=my_photos.fpp
bin/compress --workdir=runs/mine --images=a.png,b.png --output=two.fpp --test
bin/compress --preset=fashion_mnist --dataset=fashion_mnist --output=test_split.fpp
bin/compress --preset=photos --images=my_photos --estimate

The smaller the more the images are like those that the model was trained on. bin/decompress gives them back;
docs/compression.md has sizes, speeds, limits, and the format.
"""

import pathlib

from absl import flags

from flowpp_tf.compression import SEGMENT_IMAGES, TIERS
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.io.image_folder import all_files
from flowpp_tf.programs import data_flags, flag_kinds, model_flags, run

COMMON = "preset workdir images dataset split limit output estimate test tier embed_model keep_bytes".split()


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_list(
    "images", None, "Folder of images, searched recursively, or files; a split of --dataset if not given."
  )
  flag_kinds.define_name("split", "test", SPLITS, "Split of --dataset.")
  data_flags.define_data_flags(default="that of the run")
  flags.DEFINE_integer(
    "limit", None, "Number of images, from the start; all if not given.", lower_bound=1, upper_bound=1 << 31
  )
  flags.DEFINE_string("output", None, "Archive to write, such as my_photos.fpp.")
  flags.DEFINE_bool("estimate", False, "Say how large the archive would be, and write nothing.")
  flags.DEFINE_bool("test", False, "Decode the whole archive and compare it with the images before it appears.")
  flags.DEFINE_enum(
    "tier",
    "portable",
    TIERS,
    "portable: every machine decodes it. float64, exact-build: faster, and "
    "decoded where the networks give the same numbers, which is checked.",
  )
  flags.DEFINE_bool(
    "embed_model", False, "Put the model into the archive, so that nothing else is needed to decode it."
  )
  flags.DEFINE_bool(
    "lossy_pixels",
    False,
    "Code the pixels of JPEG and lossy WebP files too, which takes more bytes "
    "than the files; else these files are stored verbatim.",
  )
  flags.DEFINE_bool(
    "keep_bytes",
    False,
    "Give the files back byte for byte: those whose pixels lie in them without compression (PPM, BMP, TIFF) are coded, "
    "all others are stored verbatim. Else the pixels and metadata come back, as PNG.",
  )
  flags.DEFINE_integer(
    "segment_images",
    SEGMENT_IMAGES,
    "Images or tiles that are decoded together; fewer give quicker access to one of them, and larger archives.",
    lower_bound=1,
    upper_bound=1 << 16,
  )
  flags.DEFINE_integer(
    "batch_size", None, "Largest batch; one that is fast if not given.", lower_bound=1, upper_bound=1 << 16
  )


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given = flags.FLAGS
  _check_go_together(given)
  check_extra("constriction", "compression", "compression")
  if given.output is not None:
    run.check_is_new(given.output)
  model, _ = model_flags.model_from_flags()
  if given.images:
    folder, names = files_from_flags()
    images = f"{len(names)} files of {folder}"
  else:
    images = data_flags.images_from_flags()
  end = f"to {given.output}, tier {given.tier}" if given.output else "to see how large the archive would be"
  return f"compressing {images} with {model} {end}"


def _check_go_together(given):
  """Raise an `InputError` for flags of which one leaves no meaning to another."""
  if given.images and (given.dataset or "split" in flag_kinds.given_from_flags()):
    raise InputError("--images are files, --dataset and --split say other images; give one of them")
  if (given.output is None) != given.estimate:
    raise InputError("give --output, or --estimate, which writes nothing; one of them")
  for name in ("lossy_pixels", "keep_bytes"):
    if given[name].value and not given.images:
      raise InputError(f"--{name} is for the files of --images; a split of a data set has pixels only")
  for name in ("test", "embed_model"):
    if given[name].value and given.estimate:
      raise InputError(f"--{name} is for an archive, which --estimate does not write")
  if given.keep_bytes and given.lossy_pixels:
    raise InputError("--lossy_pixels does not keep the bytes of files; give it, or --keep_bytes")


def files_from_flags() -> tuple[pathlib.Path, list[str]]:
  """Return a folder, and the names of the files below it."""
  paths, limit = flags.FLAGS.images, flags.FLAGS.limit
  if len(paths) == 1 and pathlib.Path(paths[0]).expanduser().is_dir():
    folder = pathlib.Path(paths[0]).expanduser()
    names = all_files(folder)
    if not names:
      raise InputError(f"folder {str(folder)!r} has no file")
    return folder, names[:limit]
  files = [pathlib.Path(path).expanduser() for path in paths]
  for file in files:
    if not file.is_file():
      raise InputError(f"--images must be one folder, or files; {str(file)!r} is no file")
  names = [file.name for file in files]
  if len(set(names)) < len(names):
    raise InputError("two of the --images have the same name")
  if len({file.parent for file in files}) > 1:
    raise InputError("the files of --images must lie in one folder; give the folder, or one archive for each")
  return files[0].parent, names[:limit]

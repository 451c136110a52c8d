"""Compress images without loss, with a trained model.

bin/compress --preset=photos --images=my_photos --output=my_photos.fpp
bin/compress --workdir=runs/mine --images=a.png,b.png --output=two.fpp --test
bin/compress --preset=fashion_mnist --dataset=fashion_mnist --output=test_split.fpp
bin/compress --preset=photos --images=my_photos --estimate

The smaller the more the images are like those that the model was trained on. bin/decompress gives them back;
docs/compression.md has sizes, speeds, limits, and the format.
"""

from collections.abc import Iterator
import math
import os
import pathlib
import time

from absl import flags
import numpy as np

from flowpp_tf.compression import (
  SEGMENT_IMAGES,
  TIERS,
  ArchiveReader,
  ArchiveWriter,
  TieredCodec,
  compress_to,
  read_images,
)
from flowpp_tf.compression.pictures import (
  MAX_KEPT_FILE,
  ImageFile,
  Lost,
  check_channels,
  read_picture,
  read_pictures,
  write_pictures,
)
from flowpp_tf.compression.tiles import to_tiles
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import SPLITS
from flowpp_tf.data.folder import all_files
from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.io import gate
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.programs import data_flags, model_flags, run
from flowpp_tf.programs.codec_models import save_codec_model
from flowpp_tf.programs.progress import progress_on_stderr

FLAGS = flags.FLAGS
_ESTIMATED_TILES = 1000


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_list(
    "images", None, "Folder of images, searched recursively, or files; a split of --dataset if not given."
  )
  flags.DEFINE_string("split", "test", f"One of {', '.join(SPLITS)}, of --dataset.")
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
    "than the files; else these files are kept as they are.",
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


def compress_from_flags() -> None:
  """Write the archive."""
  given = run.given_from_flags()
  if FLAGS.images and (FLAGS.dataset or "split" in given):
    raise InputError("--images are files, --dataset and --split say other images; give one of them")
  if (FLAGS.output is None) != FLAGS.estimate:
    raise InputError("give --output, or --estimate, which writes nothing; one of them")
  if FLAGS.output is not None:
    run.check_is_new(FLAGS.output)
  workdir = model_flags.workdir_from_flags()
  model, settings = workdir.load()
  if FLAGS.images:
    _compress_files(model, workdir)
    return
  dataset = (
    data_flags.load_from_settings(data_flags.complete_settings(given, FLAGS.dataset, settings), model.config)
    if FLAGS.dataset
    else data_flags.load_data_of_run(settings, model.config, given)[0]
  )
  images = dataset.split(FLAGS.split)[: FLAGS.limit]
  size = len(images) * math.prod(model.config.image_shape)
  if FLAGS.estimate:
    _print_estimate(model, images, len(images), size, 0)
    return
  coder = _coder(model, workdir)

  def write(path):
    with open(path, "wb") as file:
      compress_to(
        file,
        coder,
        images,
        segment_images=FLAGS.segment_images,
        embed_model=FLAGS.embed_model,
        max_batch=FLAGS.batch_size,
        progress=progress_on_stderr(len(images)),
      )
    if FLAGS.test:
      with open(path, "rb") as file:
        start = 0
        for part in read_images(ArchiveReader(file), coder):
          if part.problem or not np.array_equal(part.images, images[start : start + len(part.images)]):
            raise RuntimeError(f"the archive does not decode to the images: {part.problem or 'pixels differ'}")
          start += len(part.images)

  _write(write, len(images), size, size)


def _compress_files(model, workdir):
  check_channels(model.config.image_shape[2])
  folder, names = _files(FLAGS.images)
  names = names[: FLAGS.limit]
  sizes = {name: _size_of(folder / name) for name in names}
  shape = model.config.image_shape
  kept: dict[str, str] = {}  # names, and why

  def pictures() -> Iterator[ImageFile]:
    for name in names:
      try:
        picture = read_picture(folder, name, shape[2], FLAGS.lossy_pixels)
      except OSError as error:
        raise InputError(f"{str(folder / name)!r} cannot be read: {error.strerror or error}") from None
      if picture.pixels is None:
        kept[name] = picture.reason
      yield picture

  for name in (name for name, size in sizes.items() if size > MAX_KEPT_FILE):
    if reason := read_picture(folder, name, shape[2], FLAGS.lossy_pixels).reason:
      raise InputError(
        f"{str(folder / name)!r} would be kept as it is ({reason}), and is larger than {MAX_KEPT_FILE >> 20} MiB"
      )

  if FLAGS.estimate:
    tiles, kept_bytes, count, pixel_bytes = [], 0, 0, 0
    for picture in pictures():
      if picture.pixels is None:
        kept_bytes += len(picture.content)
        continue
      own = to_tiles(picture.pixels, shape)
      count, pixel_bytes = count + len(own), pixel_bytes + picture.pixels.nbytes
      tiles.append(own[np.linspace(0, len(own) - 1, min(len(own), max(_ESTIMATED_TILES // len(names), 1))).astype(int)])
    if not tiles:
      print(f"no file has pixels to code; all {len(kept)} would be kept as they are, {_size(kept_bytes)}")
      return
    _print_estimate(model, np.concatenate(tiles), count, pixel_bytes, kept_bytes)
    return
  coder = _coder(model, workdir)

  def write(path):
    with open(path, "wb") as file:
      writer = ArchiveWriter(file, coder, "files", FLAGS.embed_model, FLAGS.batch_size, progress_on_stderr(None))
      write_pictures(writer, pictures(), shape, FLAGS.segment_images)
    if FLAGS.test:
      with open(path, "rb") as file:
        back = read_pictures(ArchiveReader(file), coder)
        for original, decoded in zip(pictures(), back, strict=True):
          if isinstance(decoded, Lost) or decoded.name != original.name or decoded.content != original.content:
            raise RuntimeError(f"the archive does not decode to {original.name!r}")

  _write(write, len(names), sum(sizes.values()), None)
  if kept:
    kind = "grey" if shape[2] == 1 else "RGB"
    reasons = ", ".join(sorted(set(kept.values())))
    run.warn(
      f"{len(kept)} of {len(names)} files are kept as they are ({reasons}): the model "
      f"codes the pixels of lossless {kind} files"
    )
  if pathlib.Path(FLAGS.output).stat().st_size >= sum(sizes.values()):
    run.warn(
      "the archive is not smaller than the files: they are too few, or unlike those that the model was trained on"
    )


def _size_of(path):
  with gate.reading(path), gate.open_regular(path) as file:  # before the work begins
    return os.fstat(file.fileno()).st_size


def _files(paths):
  """A folder, and names below it."""
  if len(paths) == 1 and pathlib.Path(paths[0]).expanduser().is_dir():
    folder = pathlib.Path(paths[0]).expanduser()
    names = all_files(folder)
    if not names:
      raise InputError(f"folder {str(folder)!r} has no file")
    return folder, names
  files = [pathlib.Path(path).expanduser() for path in paths]
  for file in files:
    if not file.is_file():
      raise InputError(f"--images must be one folder, or files; {str(file)!r} is no file")
  names = [file.name for file in files]
  if len(set(names)) < len(names):
    raise InputError("two of the --images have the same name")
  if len({file.parent for file in files}) > 1:
    raise InputError("the files of --images must lie in one folder; give the folder, or one archive for each")
  return files[0].parent, names


def _coder(model: FlowPlusPlus, workdir) -> TieredCodec:
  coder = TieredCodec(model, FLAGS.tier)
  save_codec_model(workdir.path, coder.model)
  return coder


def _print_estimate(model, tiles, count, pixel_bytes, kept_bytes):
  tiles = np.asarray(tiles[np.linspace(0, len(tiles) - 1, min(len(tiles), _ESTIMATED_TILES)).astype(int)])
  fits = tiles.reshape(len(tiles), -1).max(axis=1) < model.config.levels
  if not fits.all():
    raise InputError(
      f"the model has {model.config.levels} levels; {int((~fits).sum())} of {len(tiles)} tiles have more"
    )
  bound = evaluate_bits_per_dim(model, tiles, 1).bounds[0]
  size = int(bound.bits_per_dim * count * tiles[0].size / 8) + kept_bytes
  print(
    f"estimate: {_size(size)} for {_size(pixel_bytes)} of pixels ({bound.bits_per_dim:.4f} +- "
    f"{bound.standard_error:.4f} bits/dim, measured on {len(tiles)} of {count} images or tiles)"
    + (f" and {_size(kept_bytes)} of files that are kept as they are" if kept_bytes else "")
  )


def _write(write, count, size_before, dims):
  begin = time.monotonic()
  output = pathlib.Path(FLAGS.output)
  run.replace(output, write)
  seconds, size = time.monotonic() - begin, output.stat().st_size
  rate = f", {8 * size / dims:.4f} bits/dim" if dims else ""
  print(
    f"wrote {output}: {count} {'images' if dims else 'files'}, {_size(size_before)} -> {_size(size)}{rate}, "
    f"{size_before / 1e6 / seconds:.2f} MB/s ({count / seconds:.1f} per second)"
    + ("; decoded and compared" if FLAGS.test else "")
  )


def _size(count):
  """A number of bytes as text."""
  for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if count >= factor:
      return f"{count / factor:.2f} {unit}"
  return f"{count} bytes"


def main() -> None:
  """Entry point of `flowpp-compress` and `bin/compress`."""
  define_flags()
  run.run_program(compress_from_flags)

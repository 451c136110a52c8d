"""Compress images without loss, with a trained model.

bin/compress --preset=photos --images=my_photos --output=my_photos.fpp
bin/compress --workdir=runs/mine --images=a.png,b.png --output=two.fpp --test
bin/compress --preset=fashion_mnist --dataset=fashion_mnist --output=test_split.fpp
bin/compress --preset=photos --images=my_photos --estimate

The smaller the more the images are like those that the model was trained on. bin/decompress gives them back;
docs/compression.md has sizes, speeds and limits.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import time
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from flowpp_tf.compression import SEGMENT_IMAGES, ArchiveReader, ArchiveWriter, Codec, compress_to, read_images
from flowpp_tf.core.checks import pixel_dtype
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import at_least, one_of, setting
from flowpp_tf.io import gate
from flowpp_tf.io.image_folder import all_files
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.decompress import save_codec_model
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import ModelOptions
from flowpp_tf.tiles.cutting import to_tiles
from flowpp_tf.tiles.neighbours import TileLayout

if TYPE_CHECKING:
  from flowpp_tf.compression.files.reading import ImageFile
  from flowpp_tf.models import FlowPlusPlus

_ESTIMATED_TILES = 1000


@dataclasses.dataclass(frozen=True)
class CompressOptions(DataOptions, ModelOptions):
  """Options of bin/compress."""

  COMMON = (
    *("preset", "workdir", "images", "dataset", "split", "limit", "output", "estimate", "test"),
    *("embed_model", "keep_bytes"),
  )

  images: tuple[str, ...] | None = setting(
    None, "Folder of images, searched recursively, or files; a split of --dataset if not given."
  )
  split: str | None = setting(None, "Split of --dataset. (default: test)", one_of(*SPLITS))
  limit: int | None = setting(None, "Number of images, from the start; all if not given.", at_least(1))
  output: str | None = setting(None, "Archive to write, such as my_photos.fpp.")
  estimate: bool = setting(False, "Say how large the archive would be, and write nothing.")
  test: bool = setting(False, "Decode the whole archive and compare it with the images before it appears.")
  embed_model: bool = setting(False, "Put the model into the archive, so that nothing else is needed to decode it.")
  lossy_pixels: bool = setting(
    False,
    "Code the pixels of JPEG and lossy WebP files too, which takes more bytes "
    "than the files; else these files are stored verbatim.",
  )
  keep_bytes: bool = setting(
    False,
    "Give all files back byte for byte, as those always are whose pixels lie in them without compression (PPM, BMP, "
    "TIFF): all others are stored verbatim. Else the pixels and metadata of these come back, as PNG.",
  )
  segment_images: int = setting(
    SEGMENT_IMAGES,
    "Images or tiles that are decoded together; fewer give quicker access to one of them, and larger archives.",
    at_least(1, 1 << 16),
  )
  batch_size: int | None = setting(None, "Largest batch; one that is fast if not given.", at_least(1, 1 << 16))

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.images and (self.dataset or self.split):
      raise InputError("--images are files, --dataset and --split name other images; give one of them")
    if (self.output is None) != self.estimate:
      raise InputError("give --output, or --estimate, which writes nothing; one of them")
    for name in ("lossy_pixels", "keep_bytes"):
      if getattr(self, name) and not self.images:
        raise InputError(f"--{name} is for the files of --images; a split of a data set has pixels only")
    for name in ("test", "embed_model"):
      if getattr(self, name) and self.estimate:
        raise InputError(f"--{name} is for an archive, which --estimate does not write")
    if self.keep_bytes and self.lossy_pixels:
      raise InputError("--lossy_pixels does not keep the bytes of files; give it, or --keep_bytes")


def run(options: CompressOptions) -> None:
  """Write the archive."""
  check_extra("constriction", "compression", "compression")
  if options.output is not None:
    outputs.check_is_new(options.output)
  name, _ = options.find_model()
  folder, names = _find_files(options.images, options.limit) if options.images else (pathlib.Path(), [])
  images = f"{len(names)} files of {folder}" if names else options.split_in_words(options.split or "test")
  end = f"to {options.output}" if options.output else "to see how large the archive would be"
  process.phase(f"compressing {images} with {name} {end}")
  import_tensorflow()
  workdir = options.find_workdir()
  model, settings = workdir.load()
  if options.images:
    _compress_files(model, workdir.path, folder, names, options)
  else:
    dataset = data_options.load_given_data(settings, model.config, options.given_data)
    _compress_images(model, workdir.path, dataset.split(options.split or "test")[: options.limit], options)


def _find_files(paths, limit):
  """Return the folder of --images, and the names of the files below it."""
  if len(paths) == 1 and pathlib.Path(paths[0]).expanduser().is_dir():
    folder = pathlib.Path(paths[0]).expanduser()
    names = all_files(folder)
    if not names:
      raise InputError(f"folder {str(folder)!r} has no file")
    return folder, names[:limit]
  files = [pathlib.Path(path).expanduser() for path in paths]
  for file in files:
    if not file.is_file():
      raise InputError(f"--images must be one folder, or files; {str(file)!r} is not a file")
  names = [file.name for file in files]
  if len(set(names)) < len(names):
    raise InputError("two of the --images have the same name")
  if len({file.parent for file in files}) > 1:
    raise InputError("the files of --images must lie in one folder; give the folder, or one archive for each")
  return files[0].parent, names[:limit]


def _compress_images(model, workdir, images, options):
  dims = len(images) * math.prod(model.config.image_shape)
  size = dims * pixel_dtype(model.config.levels).itemsize
  if options.output is None:
    _print_estimate(model, images, len(images), size, 0)
    return
  codec = _codec(model, workdir)

  def write(file):
    process.phase(f"coding {len(images):,} images")
    with tqdm.tqdm(total=len(images), unit="image", disable=None) as bar:
      compress_to(
        file,
        codec,
        images,
        segment_images=options.segment_images,
        embed_model=options.embed_model,
        max_batch=options.batch_size,
        progress=bar.update,
      )

  def compare(reader):
    start = 0
    for part in read_images(reader, codec):
      if part.problem or not np.array_equal(part.images, images[start : start + len(part.images)]):
        raise RuntimeError(f"the archive does not decode to the images: {part.problem or 'pixels differ'}")
      start += len(part.images)

  _write(options, write, compare, len(images), size, dims)


def _compress_files(model, workdir, folder, names, options):
  from flowpp_tf.compression.files.pictures import check_channels, read_pictures, write_pictures
  from flowpp_tf.compression.files.reading import MAX_VERBATIM_FILE, SMALLER, ImageFile, read_picture

  check_channels(model.config.image_shape[2])
  shape, verbatim = model.config.image_shape, {}  # why files are stored verbatim, by name
  sizes = {name: _size_of(folder / name) for name in names}
  common = dict(channels=shape[2], lossy_pixels=options.lossy_pixels, levels=model.config.levels)
  plainly = functools.partial(read_picture, folder, **common, keep_bytes=options.keep_bytes)

  def pictures(read, progress=lambda size: None) -> Iterator["ImageFile"]:
    for name in names:
      with _readable(folder / name):
        picture = read(name)
      if picture.pixels is None:
        verbatim[name] = picture.reason
      yield picture
      progress(sizes[name])

  _check_large(folder, plainly, (name for name, size in sizes.items() if size > MAX_VERBATIM_FILE))
  if options.output is None:
    _estimate_files(model, pictures(plainly), len(names))
    return
  codec, total = _codec(model, workdir), sum(sizes.values())
  read = functools.partial(plainly, bits=_bits_of(model))

  def write(file):
    process.phase(f"coding {len(names):,} files, {size_text(total)}")
    with tqdm.tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar:
      writer = ArchiveWriter(file, codec, "files", options.embed_model, options.batch_size)
      fallen_back = write_pictures(writer, pictures(read, bar.update), shape, options.segment_images)
    verbatim.update({name: SMALLER for name in fallen_back})

  def compare(reader):
    for name, decoded in zip(names, read_pictures(reader, codec), strict=True):
      if not isinstance(decoded, ImageFile):
        raise RuntimeError(f"the archive does not decode to {name!r}: {decoded.reason}")
      expected = _expected(folder, name, decoded, options.lossy_pixels, common["levels"])
      if decoded.name != name or decoded.content != expected:
        raise RuntimeError(f"the archive does not decode to {name!r}")

  _warn_about_files(verbatim, names, model.config, _write(options, write, compare, len(names), total) >= total)


def _expected(folder, name, decoded, lossy_pixels, levels):
  """Return what a file of an archive must be: the bytes of the file, or its pixels and metadata."""
  from flowpp_tf.compression.files.reading import MAX_VERBATIM_FILE, read_picture

  if decoded.data is not None:
    return gate.read_bytes(folder / name, max(MAX_VERBATIM_FILE, _size_of(folder / name)))
  return read_picture(folder, name, decoded.pixels.shape[2], lossy_pixels, levels=levels).content


@contextlib.contextmanager
def _readable(path):
  try:
    yield
  except OSError as error:
    raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None


def _bits_of(model):
  """Return a function of pixels `[H, W, C]`: their bits in the model's bound, of one sample.

  For pictures they differ from those in an archive by less than 1 %. Values that the model does not have count as its
  largest one.
  """
  from flowpp_tf.evaluation import BitMaps, Scorer

  largest, shape = model.config.levels - 1, model.config.image_shape
  if model.config.tile_neighbours:
    maps = BitMaps(model)
    return lambda pixels: float(next(maps([np.minimum(pixels, largest)])).sum())
  scorer, dims = Scorer(model, num_samples=1), math.prod(shape)
  return lambda pixels: float(scorer.bits_per_dim(to_tiles(np.minimum(pixels, largest), shape)).sum() * dims)


def _check_large(folder, read, names):
  """Raise an `InputError` if one of the files would be stored verbatim; they are too large for that."""
  from flowpp_tf.compression.files.reading import MAX_VERBATIM_FILE

  for name in names:
    if reason := read(name).reason:
      raise InputError(
        f"{str(folder / name)!r} would be stored verbatim ({reason}), and is larger than {MAX_VERBATIM_FILE >> 20} MiB"
      )


def _warn_about_files(verbatim, names, config, larger):
  if verbatim:
    kind = ("" if config.levels <= 256 else "16-bit ") + ("grey" if config.image_shape[2] == 1 else "RGB")
    reasons = ", ".join(sorted(set(verbatim.values())))
    process.warn(
      f"{len(verbatim)} of {len(names)} files are stored verbatim ({reasons}): the model "
      f"codes the pixels of lossless {kind} files"
    )
  if larger:
    process.warn(
      "the archive is not smaller than the files: they are too few, or unlike those that the model was trained on"
    )


def _estimate_files(model, pictures, files):
  """Print how large the archive of so many files would be, from some tiles of each."""
  config, shape = model.config, model.config.image_shape
  verbatim = stored_bytes = 0
  parts = []
  count = pixel_bytes = 0
  for picture in pictures:
    stored_bytes += picture.size
    if picture.pixels is None:
      verbatim += 1
      continue
    own = to_tiles(picture.pixels, shape)
    count += len(own)
    pixel_bytes += picture.pixels.nbytes
    chosen = _spread(np.arange(len(own)), max(_ESTIMATED_TILES // files, 1))
    part = [own[chosen]]
    if config.tile_neighbours:
      height, width = picture.pixels.shape[:2]
      layout = TileLayout.from_runs(shape, [(height, width, 0, len(own))], config.tile_step)
      part += [layout.context(own, chosen, config.levels), layout.inside[chosen]]
    parts.append(part)
  if parts:
    tiles, *seen = map(np.concatenate, zip(*parts, strict=True))
    _print_estimate(model, tiles, count, pixel_bytes, stored_bytes, *seen)
  else:
    print(f"no file has pixels to code; all {verbatim} would be stored verbatim, {size_text(stored_bytes)}")


def _size_of(path):
  with gate.reading(path), gate.open_regular(path) as file:  # before the work begins
    return os.fstat(file.fileno()).st_size


def _codec(model: "FlowPlusPlus", workdir: pathlib.Path) -> Codec:
  process.phase("building the codec")
  codec = Codec(model)
  save_codec_model(workdir, codec.model)
  return codec


def _spread(indices, most):
  """Return at most so many of the indices, evenly spread."""
  return indices[np.linspace(0, len(indices) - 1, min(len(indices), most)).astype(int)]


def _print_estimate(model, tiles, count, pixel_bytes, stored_bytes, contexts=None, inside=None):
  from flowpp_tf.evaluation import evaluate_bits_per_dim

  chosen = _spread(np.arange(len(tiles)), _ESTIMATED_TILES)
  tiles, conditioning = np.asarray(tiles[chosen]), {} if contexts is None else {"condition": contexts[chosen]}
  dims = count * tiles[0].size
  if inside is not None:
    dims, inside = pixel_bytes // pixel_dtype(model.config.levels).itemsize, inside[chosen]
  fits = tiles.reshape(len(tiles), -1).max(axis=1) < model.config.levels
  if not fits.all():
    raise InputError(
      f"the model has {model.config.levels} levels; {int((~fits).sum())} of {len(tiles)} tiles have more"
    )
  process.phase(f"measuring {len(tiles):,} images or tiles")
  bound = evaluate_bits_per_dim(model, tiles, 1, conditioning=conditioning, inside=inside).bounds[0]
  size = int(bound.bits_per_dim * dims / 8) + stored_bytes
  print(
    f"estimate: {size_text(size)} for {size_text(pixel_bytes)} of pixels"
    + (f" and {size_text(stored_bytes)} of verbatim files, wrappers and metadata" if stored_bytes else "")
    + f"\n  {with_error(bound.bits_per_dim, bound.standard_error)} bits/dim, measured on {len(tiles)} of {count} "
    "images or tiles"
  )


def _write(options, write, compare, count, size_before, dims=0):
  """Write the archive by `write(file)`, read it by `compare(reader)` for --test; return its size in bytes."""
  begin = time.monotonic()

  def write_and_compare(path):
    with open(path, "wb") as file:
      write(file)
    if options.test:
      process.phase("decoding the archive, and comparing")
      with open(path, "rb") as file:
        compare(ArchiveReader(file))

  outputs.replace(options.output, write_and_compare)
  output = pathlib.Path(options.output)
  seconds, size = time.monotonic() - begin, output.stat().st_size
  rate = f", {three_digits(8 * size / dims)} bits/dim" if dims else ""
  what = "images" if dims else "files"
  print(
    f"wrote {output}: {count} {what}, {size_text(size_before)} -> {size_text(size)}, "
    f"{three_digits(size / max(size_before, 1))} of it{rate}\n"
    f"  {three_digits(seconds)} s, {size_text(size_before / seconds)}/s, {three_digits(count / seconds)} {what}/s"
    + ("; decoded and compared" if options.test else "")
  )
  return size


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

"""Compress images without loss, with a trained model.

bin/compress --preset=photos --images=my_photos --output=my_photos.fpp
bin/compress --workdir=runs/mine --images=a.png,b.png --output=two.fpp --test
bin/compress --preset=fashion_mnist --dataset=fashion_mnist --output=test_split.fpp
bin/compress --preset=photos --images=my_photos --estimate

The smaller the more the images are like those that the model was trained on. bin/decompress gives them back;
docs/compression.md has sizes, speeds and limits.
"""

import collections
import dataclasses
import functools
import math
import os
import pathlib
import time

import numpy as np
import tqdm

from flowpp_tf.compression import SEGMENT_IMAGES, ArchiveReader, ArchiveWriter, Codec, compress_to
from flowpp_tf.compression.lzma_images import pack
from flowpp_tf.core.checks import pixel_dtype
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.core.settings import Rule, at_least, one_of, setting
from flowpp_tf.io import gate
from flowpp_tf.io.budget import size_text
from flowpp_tf.io.image_folder import all_files
from flowpp_tf.programs import data_options, outputs, process
from flowpp_tf.programs.data_options import DataOptions
from flowpp_tf.programs.decompress import save_codec_model
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import ModelOptions
from flowpp_tf.tiles.cutting import to_tiles
from flowpp_tf.tiles.neighbours import TileLayout

_ESTIMATED_TILES = 1000


@dataclasses.dataclass(frozen=True)
class CompressOptions(DataOptions, ModelOptions):
  """Options of bin/compress."""

  RULES = (
    Rule("images", lambda options: not options.dataset and not options.split, "left out with --dataset or --split"),
    Rule("lossy_pixels", lambda options: bool(options.images), "left out without --images"),
    Rule("keep_bytes", lambda options: bool(options.images), "left out without --images"),
    Rule("keep_bytes", lambda options: not options.lossy_pixels, "left out with --lossy_pixels"),
    Rule("verbose", lambda options: bool(options.images), "left out without --images"),
    Rule("test", lambda options: not options.estimate, "left out with --estimate"),
    Rule("embed_model", lambda options: not options.estimate, "left out with --estimate"),
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
  verbose: bool = setting(False, "Name each file that is stored verbatim, and why.")
  batch_size: int | None = setting(None, "Largest batch; one that is fast if not given.", at_least(1, 1 << 16))

  def __post_init__(self) -> None:
    super().__post_init__()
    if (self.output is None) != self.estimate:
      raise InputError("give --output, or --estimate, which writes nothing; one of them")


def run(options: CompressOptions) -> None:
  """Write the archive."""
  check_extra("constriction", "compression", "compression")
  if options.output is not None:
    outputs.check_is_new(options.output)
  name, _ = options.find_model()
  folder, names = _find_files(options.images, options.limit) if options.images else (pathlib.Path(), [])
  images = f"{len(names)} files of {folder}" if names else options.split_in_words(options.split or "test")
  process.phase(f"compressing {images} with {name} to {options.output or 'see how large the archive would be'}")
  import_tensorflow()
  workdir = options.find_workdir()
  model, settings = workdir.load()
  if options.images:
    if verbatim := _compress_files(model, workdir.path, folder, names, options):
      _report_verbatim(options, model.config, verbatim, len(names))
  else:
    dataset = data_options.load_data_of_run(settings, model.config, options.given_data)
    _compress_images(model, workdir.path, dataset.split(options.split or "test")[: options.limit], options)


def _find_files(paths, limit):
  """Return the folder of --images, and the names of the files below it."""
  files = [pathlib.Path(path).expanduser() for path in paths]
  if len(files) == 1 and files[0].is_dir():
    names = all_files(files[0])
    if not names:
      raise InputError(f"folder {str(files[0])!r} has no file")
    return files[0], names[:limit]
  for file in files:
    if not file.is_file():
      raise InputError(f"--images must be one folder, or files; {str(file)!r} is not a file")
  if len({file.parent for file in files}) > 1:
    raise InputError("the files of --images must lie in one folder; give the folder, or one archive for each")
  return files[0].parent, [*dict.fromkeys(file.name for file in files)][:limit]


def _compress_images(model, workdir, images, options):
  size = len(images) * math.prod(model.config.image_shape) * pixel_dtype(model.config.levels).itemsize
  if options.output is None:
    _print_estimate(model, images, len(images), size)
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
    for part in reader.decoded(codec):
      if part.problem or not np.array_equal(part.images, images[start : start + len(part.images)]):
        raise RuntimeError(f"the archive does not decode to the images: {part.problem or 'pixels differ'}")
      start += len(part.images)

  _write(options, write, compare, f"{len(images)} images", size, size // codec.dtype.itemsize)


def _compress_files(model, workdir, folder, names, options):
  """Write or estimate the archive; return why files are stored verbatim, by name."""
  from flowpp_tf.compression.files.pictures import check_channels, write_pictures
  from flowpp_tf.compression.files.reading import MAX_VERBATIM_FILE, SMALLER, read_picture

  config = model.config
  check_channels(config.image_shape[2])
  read = functools.partial(
    read_picture,
    folder,
    channels=config.image_shape[2],
    lossy_pixels=options.lossy_pixels,
    keep_bytes=options.keep_bytes,
    levels=config.levels,
  )
  sizes = {name: _size_of(folder / name) for name in names}
  for name, size in sizes.items():
    if size > MAX_VERBATIM_FILE and (reason := read(name).reason):
      raise InputError(
        f"{str(folder / name)!r} would be stored verbatim ({reason}), and is larger than {size_text(MAX_VERBATIM_FILE)}"
      )
  verbatim = {}

  def pictures(bits=None, progress=lambda size: None):
    for name, size in sizes.items():
      try:
        picture = read(name, bits=bits)
      except OSError as error:
        raise InputError(f"{str(folder / name)!r} cannot be read: {gate.reason(error)}") from None
      if picture.pixels is None:
        verbatim[name] = picture.reason
      yield picture
      progress(size)

  if options.output is None:
    _estimate_files(model, pictures(), len(names))
    return verbatim
  codec, total = _codec(model, workdir), sum(sizes.values())

  def write(file):
    process.phase(f"coding {len(names):,} files, {size_text(total)}")
    with tqdm.tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar:
      writer = ArchiveWriter(file, codec, "files", options.embed_model, options.batch_size)
      files = pictures(_bits_of(model), bar.update)
      replaced = write_pictures(writer, files, config.image_shape, options.segment_images)
    verbatim.update(dict.fromkeys(replaced, SMALLER))

  _write(options, write, functools.partial(_compare_files, codec, folder, names, read), f"{len(names)} files", total)
  return verbatim


def _report_verbatim(options, config, verbatim, files):
  """Print how many files are stored verbatim by their reasons, and with --verbose which."""
  from flowpp_tf.compression.files.reading import LOSSY, SMALLER

  if options.verbose:
    for name, reason in sorted(verbatim.items()):
      process.say("", f"stored verbatim: {name} ({reason})")
  kind = ("" if config.levels <= 256 else "16-bit ") + ("grey" if config.image_shape[2] == 1 else "RGB")
  counts = collections.Counter(verbatim.values())
  reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
  coded = "" if {*counts} == {SMALLER} else f": the model codes the pixels of lossless {kind} files"
  lossy = "; JPEG and lossy WebP files do not get smaller" if LOSSY in counts else ""
  process.warn(f"{len(verbatim)} of {files} files are stored verbatim ({reasons}){coded}{lossy}")


def _compare_files(codec, folder, names, read, reader):
  """Raise a `RuntimeError` unless an archive decodes to files: to their bytes, or to their pixels and metadata."""
  from flowpp_tf.compression.files.pictures import Lost, read_pictures

  missing = {*names}
  for decoded in read_pictures(reader, codec):
    if isinstance(decoded, Lost) or decoded.name not in missing:
      raise RuntimeError(f"the archive does not decode to {decoded.name!r}")
    path = folder / decoded.name
    whole = decoded.data is not None
    if decoded.content != (gate.read_bytes(path, _size_of(path)) if whole else read(decoded.name).content):
      raise RuntimeError(f"the archive does not decode to {decoded.name!r}")
    missing.remove(decoded.name)
  if missing:
    raise RuntimeError(f"the archive does not decode to {min(missing)!r}")


def _bits_of(model):
  """Return a function of pixels `[H, W, C]`: their bits in the model's bound, of one sample.

  For pictures they differ from those in an archive by less than 1 %. Values that the model does not have count as its
  largest one.
  """
  from flowpp_tf.evaluation import BitMaps

  maps, largest = BitMaps(model), model.config.levels - 1
  return lambda pixels: float(next(maps([np.minimum(pixels, largest)])).sum())


def _estimate_files(model, pictures, files):
  """Print how large the archive of so many files would be, from some tiles of each."""
  config, shape = model.config, model.config.image_shape
  stored_bytes = count = pixel_bytes = 0
  parts = []  # of each picture: some of its tiles, what they see of their neighbours, and how much of them is inside
  for picture in pictures:
    stored_bytes += picture.size if picture.data is None or picture.wrapper else len(pack(picture.data))
    if picture.pixels is None:
      continue
    tiles = to_tiles(np.minimum(picture.pixels, config.levels - 1), shape)  # as `_bits_of` counts other values
    count += len(tiles)
    pixel_bytes += picture.pixels.nbytes
    chosen = _spread(len(tiles), max(_ESTIMATED_TILES // files, 1))
    layout = TileLayout.from_runs(shape, [(*picture.pixels.shape[:2], 0, len(tiles))], config.tile_step)
    parts.append((tiles[chosen], layout.context(tiles, chosen, config.levels), layout.inside[chosen]))
  if not parts:
    print(f"no file has pixels to code; all {files} would be stored verbatim, {size_text(stored_bytes)}")
    return
  tiles, *seen = map(np.concatenate, zip(*parts, strict=True))
  _print_estimate(model, tiles, count, pixel_bytes, stored_bytes, *(seen if config.tile_neighbours else ()))


def _size_of(path):
  with gate.reading(path), gate.open_regular(path) as file:  # before the work begins
    return os.fstat(file.fileno()).st_size


def _codec(model, workdir):
  process.phase("building the codec")
  codec = Codec(model)
  save_codec_model(workdir, codec.model)
  return codec


def _spread(count, most):
  """Return at most so many of the indices below `count`, evenly spread."""
  return np.linspace(0, count - 1, min(count, most)).astype(int)


def _print_estimate(model, tiles, count, pixel_bytes, stored_bytes=0, contexts=None, inside=None):
  from flowpp_tf.evaluation import evaluate_bits_per_dim

  chosen = _spread(len(tiles), _ESTIMATED_TILES)
  tiles = np.asarray(tiles[chosen])
  dims, conditioning = count * tiles[0].size, {}
  if contexts is not None:
    dims, conditioning, inside = pixel_bytes // tiles.itemsize, {"condition": contexts[chosen]}, inside[chosen]
  process.phase(f"measuring {len(tiles):,} images or tiles")
  bound = evaluate_bits_per_dim(model, tiles, 1, conditioning=conditioning, inside=inside).bounds[0]
  print(
    f"estimate: {size_text(int(bound.bits_per_dim * dims / 8) + stored_bytes)} for {size_text(pixel_bytes)} of pixels"
    + (f" and {size_text(stored_bytes)} of verbatim files, wrappers and metadata" if stored_bytes else "")
    + f"\n  {with_error(bound.bits_per_dim, bound.standard_error)} bits/dim, measured on {len(tiles)} of {count} "
    "images or tiles"
  )


def _write(options, write, compare, what, size_before, dims=0):
  """Write the archive of `what` by `write(file)`, and read it by `compare(reader)` for --test."""
  begin = time.monotonic()

  def write_and_compare(path):
    with open(path, "wb") as file:
      write(file)
    if options.test:
      process.phase("decoding the archive, and comparing")
      with open(path, "rb") as file:
        compare(ArchiveReader(file))

  outputs.replace(options.output, write_and_compare)
  size = os.path.getsize(options.output)
  rate = f", {8 * size / dims:.3f} bits/dim" if dims else ""
  print(
    f"wrote {options.output}: {what}, {size_text(size_before)} -> {size_text(size)}, "
    f"{size / max(size_before, 1):.3f} of it{rate}, in {time.monotonic() - begin:.1f} s"
    + ("; decoded and compared" if options.test else "")
  )
  if size >= size_before:
    process.warn(
      f"the archive is not smaller than the {what}: they are too few, or unlike those that the model was trained on"
    )

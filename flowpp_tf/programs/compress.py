"""Compress images without loss, with a trained model.

bin/compress --preset=photos --images=my_photos --output=my_photos.fpp
bin/compress --workdir=runs/mine --images=a.png,b.png --output=two.fpp --test
bin/compress --preset=fashion_mnist --dataset=fashion_mnist --output=test_split.fpp
bin/compress --preset=photos --images=my_photos --estimate

Archives are smaller if the images resemble the model's training images. bin/decompress restores the images.
docs/compression.md lists sizes, speeds and limits.
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
  estimate: bool = setting(False, "Print how large the archive would be, and write nothing.")
  test: bool = setting(False, "Decode the whole archive and compare it with the images before it appears.")
  embed_model: bool = setting(False, "Put the model into the archive, so that nothing else is needed to decode it.")
  lossy_pixels: bool = setting(
    False,
    "Code the pixels of JPEG and lossy WebP files too, which takes more bytes "
    "than the files; else these files are stored verbatim.",
  )
  keep_bytes: bool = setting(
    False,
    "Restore all files byte for byte. Files with uncompressed pixels (PPM, BMP, TIFF) always are; with this flag all "
    "other files are stored verbatim. Else their pixels and metadata are restored, as PNG.",
  )
  segment_images: int = setting(
    SEGMENT_IMAGES,
    "Images or tiles that are decoded together. With fewer, single images are decoded faster, and archives are larger.",
    at_least(1, 1 << 16),
  )
  verbose: bool = setting(False, "Name each file that is stored verbatim, and why.")
  batch_size: int | None = setting(None, "Largest batch size; a fast one if not given.", at_least(1, 1 << 16))

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
  if options.images:
    folder, names = _find_files(options.images, options.limit)
    images = f"{len(names)} files of {folder}"
  else:
    images = options.split_in_words(options.split or "test")
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
    for segment in reader.decoded(codec):
      stop = start + len(segment.images)
      if segment.problem or not np.array_equal(segment.images, images[start:stop]):
        raise RuntimeError(f"the archive does not decode to the images: {segment.problem or 'pixels differ'}")
      start = stop

  _write(options, write, compare, f"{len(images)} images", size, size // codec.dtype.itemsize)


def _compress_files(model, workdir, folder, names, options):
  """Write or estimate the archive; return the reasons of files that are stored verbatim, by name."""
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
  codec = _codec(model, workdir)
  total = sum(sizes.values())

  def write(file):
    process.phase(f"coding {len(names):,} files, {size_text(total)}")
    with tqdm.tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar:
      writer = ArchiveWriter(file, codec, "files", options.embed_model, options.batch_size)
      files = pictures(_bound_in_bits(model), bar.update)
      replaced = write_pictures(writer, files, config.image_shape, options.segment_images)
    verbatim.update(dict.fromkeys(replaced, SMALLER))

  _write(options, write, functools.partial(_compare_files, codec, folder, names, read), f"{len(names)} files", total)
  return verbatim


def _report_verbatim(options, config, verbatim, files):
  """Print the number of files that are stored verbatim by reason, and with --verbose their names."""
  from flowpp_tf.compression.files.reading import LOSSY, SMALLER

  if options.verbose:
    for name, reason in sorted(verbatim.items()):
      process.say("", f"stored verbatim: {name} ({reason})")
  counts = collections.Counter(verbatim.values())
  reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
  text = f"{len(verbatim)} of {files} files are stored verbatim ({reasons})"
  if {*counts} != {SMALLER}:
    depth = "" if config.levels <= 256 else "16-bit "
    colours = "grey" if config.image_shape[2] == 1 else "RGB"
    text += f": the model codes the pixels of lossless {depth}{colours} files"
  if LOSSY in counts:
    text += "; JPEG and lossy WebP files do not get smaller"
  process.warn(text)


def _compare_files(codec, folder, names, read, reader):
  """Raise a `RuntimeError` unless an archive decodes to the bytes, or the pixels and metadata, of the files."""
  from flowpp_tf.compression.files.pictures import Lost, read_pictures

  missing = {*names}
  for decoded in read_pictures(reader, codec):
    if isinstance(decoded, Lost) or decoded.name not in missing:
      raise RuntimeError(f"the archive does not decode to {decoded.name!r}")
    path = folder / decoded.name
    if decoded.data is not None:
      original = gate.read_bytes(path, _size_of(path))
    else:
      original = read(decoded.name).content
    if decoded.content != original:
      raise RuntimeError(f"the archive does not decode to {decoded.name!r}")
    missing.remove(decoded.name)
  if missing:
    raise RuntimeError(f"the archive does not decode to {min(missing)!r}")


def _bound_in_bits(model):
  """Return a function of pixels `[H, W, C]` that returns the bits of their single-sample bound.

  For pictures the bound differs from the bits in an archive by less than 1 %. Values above the model's largest value
  count as the largest value.
  """
  from flowpp_tf.evaluation import BitMaps

  maps = BitMaps(model)
  largest = model.config.levels - 1

  def bound(pixels):
    (bits,) = maps([np.minimum(pixels, largest)])
    return float(bits.sum())

  return bound


def _estimate_files(model, pictures, files):
  """Print how large the archive of so many files would be, measured on a sample of their tiles."""
  config = model.config
  shape = config.image_shape
  stored_bytes = count = pixel_bytes = 0
  samples = []  # of each picture: chosen tiles, the contexts of their neighbours, rows and columns inside
  for picture in pictures:
    if picture.data is None or picture.wrapper:
      stored_bytes += picture.size
    else:
      stored_bytes += len(pack(picture.data))
    if picture.pixels is None:
      continue
    tiles = to_tiles(np.minimum(picture.pixels, config.levels - 1), shape)  # clipped as in `_bound_in_bits`
    count += len(tiles)
    pixel_bytes += picture.pixels.nbytes
    chosen = _spread(len(tiles), max(_ESTIMATED_TILES // files, 1))
    run = (*picture.pixels.shape[:2], 0, len(tiles))
    layout = TileLayout.from_runs(shape, [run], config.tile_step)
    contexts = layout.context(tiles, chosen, config.levels)
    samples.append((tiles[chosen], contexts, layout.inside[chosen]))
  if not samples:
    print(f"no file has pixels to code; all {files} would be stored verbatim, {size_text(stored_bytes)}")
    return
  tiles, *contexts_and_inside = map(np.concatenate, zip(*samples, strict=True))
  if not config.tile_neighbours:
    contexts_and_inside = []
  _print_estimate(model, tiles, count, pixel_bytes, stored_bytes, *contexts_and_inside)


def _size_of(path):
  with gate.reading(path), gate.open_regular(path) as file:  # raises before the work begins
    return os.fstat(file.fileno()).st_size


def _codec(model, workdir):
  process.phase("building the codec")
  codec = Codec(model)
  save_codec_model(workdir, codec.model)
  return codec


def _spread(count, most):
  """Return at most `most` of the indices below `count`, evenly spread."""
  return np.linspace(0, count - 1, min(count, most)).astype(int)


def _print_estimate(model, tiles, count, pixel_bytes, stored_bytes=0, contexts=None, inside=None):
  from flowpp_tf.evaluation import evaluate_bits_per_dim

  chosen = _spread(len(tiles), _ESTIMATED_TILES)
  tiles = np.asarray(tiles[chosen])
  dims = count * tiles[0].size
  conditioning = {}
  if contexts is not None:
    dims = pixel_bytes // tiles.itemsize
    conditioning = {"condition": contexts[chosen]}
    inside = inside[chosen]
  process.phase(f"measuring {len(tiles):,} images or tiles")
  bound = evaluate_bits_per_dim(model, tiles, 1, conditioning=conditioning, inside=inside).bounds[0]
  size = int(bound.bits_per_dim * dims / 8) + stored_bytes
  text = f"estimate: {size_text(size)} for {size_text(pixel_bytes)} of pixels"
  if stored_bytes:
    text += f" and {size_text(stored_bytes)} of verbatim files, wrappers and metadata"
  bits = with_error(bound.bits_per_dim, bound.standard_error)
  print(f"{text}\n  {bits} bits/dim, measured on {len(tiles)} of {count} images or tiles")


def _write(options, write, compare, what, size_before, dims=0):
  """Write the archive of `what` by `write(file)`; with --test, check it by `compare(reader)`."""
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
  tested = "; decoded and compared" if options.test else ""
  print(
    f"wrote {options.output}: {what}, {size_text(size_before)} -> {size_text(size)}, "
    f"{size / max(size_before, 1):.3f} of it{rate}, in {time.monotonic() - begin:.1f} s{tested}"
  )
  if size >= size_before:
    process.warn(
      f"the archive is not smaller than the {what}: they are too few, or unlike those that the model was trained on"
    )

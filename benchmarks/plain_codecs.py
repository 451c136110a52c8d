"""Measure plain codecs on pictures of a folder or data set, 8 or 16 bits, grey or RGB, a file for each; all lossless.

python benchmarks/plain_codecs.py held_out
python benchmarks/plain_codecs.py ct --splits_file=ct/splits.txt
python benchmarks/plain_codecs.py --dataset=elpv
python benchmarks/plain_codecs.py --speed --output=codec_speed.json

The settings are strong; the names say the efforts of JPEG XL. --speed measures megapixels per second on a square of
each bundled test photograph: of each codec, in one thread, and of archives of the preset `photos`, in turns. Archives
decode each batch once as they encode, which is in the time; the others decode nothing as they encode.
"""

import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as programs do, before TensorFlow is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.data import load_dataset
from flowpp_tf.data.bundled import packaged_photographs
from flowpp_tf.data.images import parallel_map
from flowpp_tf.tiles.cutting import to_tiles
from tables import print_table, write_json

FLAGS = flags.FLAGS
SIDE, ROUNDS = 256, 3  # of --speed: pixels of the square, a multiple of 32; rounds after one that warms up


def codecs(png_strategy=1):  # of zlib, for filtered rows
  """Return encoders and decoders of pictures `[H, W]` or `[H, W, 3]` by name."""
  imagecodecs = import_extra("imagecodecs", "codecs", "the size of a picture in other codecs")
  jpegxl = lambda effort: lambda p: imagecodecs.jpegxl_encode(p, lossless=True, effort=effort, numthreads=1)
  return {
    "JPEG XL, effort 9": (jpegxl(9), imagecodecs.jpegxl_decode),
    "JPEG XL, effort 7": (jpegxl(7), imagecodecs.jpegxl_decode),
    "JPEG-LS": (imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    "WebP": (lambda p: imagecodecs.webp_encode(_rgb(p), lossless=True, level=100), imagecodecs.webp_decode),
    "JPEG 2000": (lambda p: imagecodecs.jpeg2k_encode(p, level=0, reversible=True), imagecodecs.jpeg2k_decode),
    "PNG": (lambda p: imagecodecs.png_encode(p, level=9, strategy=png_strategy), imagecodecs.png_decode),
  }


def _rgb(picture):
  """Return a picture for WebP, which knows no grey."""
  return picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=-1)


def _check(name, decoded, picture):
  """Raise if a codec did not give back what it coded."""
  if not np.array_equal(decoded, picture if decoded.ndim == picture.ndim else _rgb(picture)):
    raise AssertionError(f"{name} did not give the picture back")


def pictures_of(folder, splits_file, split):
  """Return the pictures of a folder, or of a split of it."""
  imagecodecs = import_extra("imagecodecs", "codecs", "the size of a picture in other codecs")
  names = sorted(path.name for path in pathlib.Path(folder).iterdir() if path.suffix == ".png")
  if splits_file:
    lines = map(str.split, pathlib.Path(splits_file).read_text().splitlines())
    names = [name for of, name in lines if of == split]
  return [imagecodecs.imread(pathlib.Path(folder) / name) for name in names]


def rows(pictures):
  """Yield a row for each codec that takes the pictures, as dicts; a size of their values is in bits."""
  pixels, values = sum(p.shape[0] * p.shape[1] for p in pictures), sum(p.size for p in pictures)
  for name, (encode, decode) in codecs().items():
    if name == "WebP" and pictures[0].dtype.itemsize > 1:
      continue

    def size(picture, name=name, encode=encode, decode=decode):
      data = encode(np.ascontiguousarray(picture))
      _check(name, decode(data), picture)
      return len(data)

    total = sum(parallel_map(size, pictures))
    yield {
      "codec": name,
      "pictures": len(pictures),
      "bits/pixel": f"{8 * total / pixels:.3f}",
      "bits/dim": f"{8 * total / values:.3f}",
      "bytes": total,
    }


def archives(photographs):
  """Return encoder and decoder of archives, and what they code: the whole tiles of photographs."""
  import flowpp_tf as fpp
  from flowpp_tf.compression import Codec

  model = fpp.FlowPlusPlus.from_preset("photos")
  codec, shape = Codec(model), model.config.image_shape
  tiles = np.concatenate([to_tiles(image, shape) for image in photographs])
  return lambda tiles: fpp.compress(codec, tiles), lambda data: fpp.decompress(codec, data), [tiles]


def speeds(photographs):
  """Return a row for archives and for each codec: medians of the rounds after the first."""
  pixels = sum(image.shape[0] * image.shape[1] for image in photographs)
  racing = {"flowpp_tf": archives(photographs)}
  racing |= {name: (*pair, photographs) for name, pair in codecs(png_strategy=0).items()}  # as PNG files are
  taken = {name: [] for name in racing}
  for _ in range(ROUNDS + 1):
    for name, (encode, decode, items) in racing.items():
      begin = time.perf_counter()
      files = [encode(item) for item in items]
      middle = time.perf_counter()
      decoded = [decode(data) for data in files]
      taken[name].append((middle - begin, time.perf_counter() - middle, sum(map(len, files))))
      for pair in zip(decoded, items, strict=True):
        _check(name, *pair)
  found = []
  for name, turns in taken.items():
    encoding, decoding, sizes = zip(*turns[1:])
    found.append(
      dict(
        codec=name,
        bits_pixel=8 * sizes[0] / pixels,
        encode=pixels / 1e6 / statistics.median(encoding),
        decode=pixels / 1e6 / statistics.median(decoding),
        spread_percent=100 * (max(encoding) - min(encoding)) / statistics.median(encoding),
        rounds=ROUNDS,
        megapixels=pixels / 1e6,
      )
    )
  return found


def main(argv):
  if FLAGS.speed:
    images = packaged_photographs()["test"].values()
    found = speeds([np.ascontiguousarray(image[:SIDE, :SIDE]) for image in images])
  elif FLAGS.dataset:
    found = list(rows([np.squeeze(image) for image in load_dataset(FLAGS.dataset).split(FLAGS.split)]))
  else:
    found = list(rows(pictures_of(argv[1], FLAGS.splits_file, FLAGS.split)))
  print_table(found)
  write_json(FLAGS.output, found)


if __name__ == "__main__":
  flags.DEFINE_bool("speed", False, "Measure the speed on photographs, in place of the size of a folder's pictures.")
  flags.DEFINE_string("dataset", None, "Data set of whole pictures, in place of a folder.")
  flags.DEFINE_string("splits_file", None, "File of lines `split name`; all pictures if not given.")
  flags.DEFINE_string("split", "test", "Split of that file, or of the data set.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)

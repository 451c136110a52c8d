"""Speed of archives and of plain codecs on the same photographs, each in turn with the others, in megapixels a second.

python benchmarks/codec_speed.py --output=codec_speed.json

Ours codes the whole tiles of the bundled test photographs with the preset `photos`, and decodes each batch once as it
encodes, which is in the time. The others code the same part of each photograph, in one thread, and decode nothing as
they encode. Sizes are of whole archives and files, in bits per pixel of three values.
"""

import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as programs do, before TensorFlow is imported

from absl import app, flags
import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.data.bundled import packaged_photographs
from flowpp_tf.tiles.cutting import to_tiles
from tables import print_table, write_json

FLAGS = flags.FLAGS
PRESET = "photos"


def plain_codecs():
  """Encoders and decoders of photographs `[H, W, 3]`, by name."""
  codecs = import_extra("imagecodecs", "codecs", "the speed of other codecs")
  jpegxl = lambda effort: lambda image: codecs.jpegxl_encode(image, lossless=True, effort=effort, numthreads=1)
  return {
    "JPEG XL, effort 9": (jpegxl(9), codecs.jpegxl_decode),
    "JPEG XL, effort 7": (jpegxl(7), codecs.jpegxl_decode),
    "WebP": (lambda image: codecs.webp_encode(image, lossless=True, level=100), codecs.webp_decode),
    "PNG": (lambda image: codecs.png_encode(image, level=9), codecs.png_decode),
  }


def contestants(photographs):
  """Functions `encode()` and `decode(encoded)` of all photographs, by name; what is encoded is a list of bytes."""
  import flowpp_tf as fpp
  from flowpp_tf.compression import Codec

  model = fpp.FlowPlusPlus.from_preset(PRESET)
  tiles = np.concatenate([to_tiles(image, model.config.image_shape) for image in photographs])

  def ours():
    codec = Codec(model)

    def decode(encoded):
      if not np.array_equal(fpp.decompress(codec, encoded[0]), tiles):
        raise AssertionError("the archive did not give the photographs back")

    return lambda: [fpp.compress(codec, tiles)], decode

  def plain(encode, decode):
    def check(encoded):
      if not all(np.array_equal(decode(data), image) for data, image in zip(encoded, photographs, strict=True)):
        raise AssertionError("a codec did not give the photographs back")

    return lambda: [encode(image) for image in photographs], check

  found = {"flowpp_tf": ours()}
  return found | {name: plain(*pair) for name, pair in plain_codecs().items()}


def measure(photographs, rounds):
  """Return a row for each contestant: medians of the rounds after the first, which warms up."""
  pixels = sum(image.shape[0] * image.shape[1] for image in photographs)
  racing = contestants(photographs)
  taken = {name: [] for name in racing}
  for _ in range(rounds + 1):
    for name, (encode, decode) in racing.items():
      begin = time.perf_counter()
      encoded = encode()
      middle = time.perf_counter()
      decode(encoded)
      taken[name].append((middle - begin, time.perf_counter() - middle, sum(map(len, encoded))))
  rows = []
  for name, turns in taken.items():
    encoding, decoding, sizes = zip(*turns[1:])
    rows.append(
      dict(
        codec=name,
        bits_pixel=8 * sizes[0] / pixels,
        encode=pixels / 1e6 / statistics.median(encoding),
        decode=pixels / 1e6 / statistics.median(decoding),
        spread_percent=100 * (max(encoding) - min(encoding)) / statistics.median(encoding),
        rounds=rounds,
        megapixels=pixels / 1e6,
      )
    )
  return rows


def main(argv):
  del argv
  side = FLAGS.side
  photographs = [image[:side, :side] for image in packaged_photographs()["test"].values()]
  found = measure([np.ascontiguousarray(image) for image in photographs], FLAGS.rounds)
  print_table(found)
  write_json(FLAGS.output, found)


if __name__ == "__main__":
  flags.DEFINE_integer("side", 256, "Pixels of the side of the part of each photograph; a multiple of 32.")
  flags.DEFINE_integer("rounds", 3, "Rounds, after one that is not counted.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)

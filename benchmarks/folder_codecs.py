"""Measure bits per pixel of codecs on pictures of a folder or data set, 8 or 16 bits, grey or RGB, a file for each.

python benchmarks/folder_codecs.py held_out
python benchmarks/folder_codecs.py ct --splits_file=ct/splits.txt
python benchmarks/folder_codecs.py --dataset=elpv

All are lossless, with strong settings; the names say the efforts of JPEG XL.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np

from flowpp_tf.core.environment import import_extra
from flowpp_tf.data import load_dataset
from flowpp_tf.data.images import parallel_map
from tables import print_table, write_json

FLAGS = flags.FLAGS


def codecs():
  """Return encoders of pictures `[H, W]` or `[H, W, 3]` by name."""
  imagecodecs = import_extra("imagecodecs", "codecs", "the size of a picture in other codecs")
  rgb = lambda picture: picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=-1)
  return {
    "JPEG XL, effort 9": lambda picture: imagecodecs.jpegxl_encode(picture, lossless=True, effort=9),
    "JPEG XL, effort 7": lambda picture: imagecodecs.jpegxl_encode(picture, lossless=True, effort=7),
    "JPEG-LS": imagecodecs.jpegls_encode,
    "WebP": lambda picture: imagecodecs.webp_encode(rgb(picture), lossless=True, level=100),  # which knows no grey
    "JPEG 2000": lambda picture: imagecodecs.jpeg2k_encode(picture, level=0, reversible=True),
    "PNG": lambda picture: imagecodecs.png_encode(picture, level=9, strategy=1),
  }


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
  deep = pictures[0].dtype.itemsize > 1
  for name, encode in codecs().items():
    if deep and name == "WebP":
      continue
    sizes = list(parallel_map(lambda picture, encode=encode: len(encode(np.ascontiguousarray(picture))), pictures))
    pixels, values = sum(p.shape[0] * p.shape[1] for p in pictures), sum(p.size for p in pictures)
    yield {
      "codec": name,
      "pictures": len(pictures),
      "bits/pixel": f"{8 * sum(sizes) / pixels:.3f}",
      "bits/dim": f"{8 * sum(sizes) / values:.3f}",
      "bytes": sum(sizes),
    }


def main(argv):
  if FLAGS.dataset:
    pictures = [np.squeeze(image) for image in load_dataset(FLAGS.dataset).split(FLAGS.split)]
  else:
    pictures = pictures_of(argv[1], FLAGS.splits_file, FLAGS.split)
  found = list(rows(pictures))
  print_table(found)
  write_json(FLAGS.output, found)


if __name__ == "__main__":
  flags.DEFINE_string("dataset", None, "Data set of whole pictures, in place of a folder.")
  flags.DEFINE_string("splits_file", None, "File of lines `split name`; all pictures if not given.")
  flags.DEFINE_string("split", "test", "Split of that file, or of the data set.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)

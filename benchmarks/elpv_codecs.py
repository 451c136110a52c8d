"""Bits per pixel of codecs on ELPV's 262 test pictures, 300x300 grey, a file for each; by kind of cell.

python benchmarks/elpv_codecs.py --output=elpv_codecs.json

All are lossless, with strong settings; the names say the efforts of JPEG XL.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np

from flowpp_tf.data import load_dataset
from flowpp_tf.data.images import parallel_map
from folder_codecs import codecs
from tables import print_table, write_json

FLAGS = flags.FLAGS


def rows():
  """A row for each codec, as dicts."""
  dataset = load_dataset("elpv", labels=True)
  pictures, poly = dataset.test[..., 0], dataset.labels_of("test") >= 4
  for name, encode in codecs().items():
    size = lambda picture, encode=encode: len(encode(np.ascontiguousarray(picture)))
    sizes = np.array(list(parallel_map(size, pictures)))
    bits = 8 * sizes / pictures[0].size
    yield {
      "codec": name,
      "pictures": len(bits),
      "all": float(bits.mean()),
      "mono": float(bits[~poly].mean()),
      "poly": float(bits[poly].mean()),
      "bytes": int(sizes.sum()),
    }


def main(argv):
  del argv
  found = []
  for row in rows():
    found.append(row)
    print(row, flush=True)
  print_table(
    [{name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()} for row in found]
  )
  if FLAGS.output:
    write_json(FLAGS.output, found)


if __name__ == "__main__":
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")
  app.run(main)

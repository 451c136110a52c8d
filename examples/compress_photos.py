"""Compress photographs without loss, and compare with what other codecs need.

python examples/compress_photos.py --folder=my_photos

Without --folder it takes the two photographs of the test split of photos, which no preset was trained on. They are
cropped to --side pixels, so that it takes a minute.
"""

import io
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np
from PIL import Image

import flowpp_tf as fpp
from flowpp_tf.compression import ArchiveReader, ArchiveWriter, Codec
from flowpp_tf.compression.files.pictures import read_pictures, write_pictures
from flowpp_tf.compression.files.reading import read_picture
from flowpp_tf.data.images import flat_image, upright

FLAGS = flags.FLAGS


def main(argv):
  del argv
  with tempfile.TemporaryDirectory() as folder:
    names = write_crops(pathlib.Path(folder))
    codec = Codec(fpp.FlowPlusPlus.from_preset(FLAGS.preset))
    file = io.BytesIO()
    writer = ArchiveWriter(file, codec, "files")
    write_pictures(writer, (read_picture(pathlib.Path(folder), name, 3) for name in names), codec.model.image_shape)
    back = list(read_pictures(ArchiveReader(file), codec))
    pixels = [np.asarray(Image.open(pathlib.Path(folder) / name)) for name in names]
    assert all(np.array_equal(a, b.pixels) for a, b in zip(pixels, back, strict=True))
    print(f"{len(names)} photographs, {sum(p.nbytes for p in pixels)} bytes of pixels, all back")
    sizes = {
      "flowpp_tf": len(file.getvalue()),
      "PNG": sum((pathlib.Path(folder) / name).stat().st_size for name in names),
      "WebP": sum(map(webp_size, pixels)),
    }
    for codec, size in sorted(sizes.items(), key=lambda item: item[1]):
      print(f"{codec:10} {size:8} bytes, {8 * size / sum(p.size for p in pixels):.3f} bits/dim")


def write_crops(folder):
  """Write the middle of each photograph as PNG; return the names."""
  if FLAGS.folder:
    paths = sorted(p for p in pathlib.Path(FLAGS.folder).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    images = {path.name: flat_image(upright(Image.open(path)), 3) for path in paths}  # a.jpg may stand beside a.png
  else:
    import skimage.data
    import sklearn.datasets

    images = {
      "coffee": Image.fromarray(skimage.data.coffee()),
      "flower": Image.fromarray(sklearn.datasets.load_sample_image("flower.jpg")),
    }
  for name, image in images.items():
    left, top = max(image.width - FLAGS.side, 0) // 2, max(image.height - FLAGS.side, 0) // 2
    image.crop((left, top, min(left + FLAGS.side, image.width), min(top + FLAGS.side, image.height))).save(
      folder / f"{name}.png", optimize=True
    )
  return [f"{name}.png" for name in images]


def webp_size(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=100, method=6)
  return len(file.getvalue())


if __name__ == "__main__":
  flags.DEFINE_string("preset", "photos", "Preset.")
  flags.DEFINE_string("folder", None, "Folder of photographs.")
  flags.DEFINE_integer("side", 256, "Side of the crops, pixels.")
  app.run(main)

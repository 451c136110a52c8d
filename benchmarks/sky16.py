"""Compare archives of the data set sky16 with its entropy, plain codecs, and FITS' Rice.

bin/train --flagfile=configs/sky16.flags --workdir=runs/sky16
python benchmarks/sky16.py --workdir=runs/sky16 --output=sky16.json

All figures are bits per pixel of the test frames, 256x256 pixels of 16 bits each. The entropy is that of the Poisson
and read noise given each scene: nobody who does not know the scenes can need less on average. The archive holds the
frames as files, cut into tiles of the model's size; the model itself is not in it. Rice is `CompImageHDU` of astropy:
its compressed data count, the headers do not.
"""

import functools
import io
import math
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
from astropy.io import fits
import numpy as np

from flowpp_tf.compression import ArchiveReader, ArchiveWriter, Codec
from flowpp_tf.compression.files.pictures import read_pictures, write_pictures
from flowpp_tf.compression.files.reading import ImageFile
from flowpp_tf.data import load_dataset, sky
from flowpp_tf.evaluation import evaluate_bits_per_dim
from flowpp_tf.training import Workdir
import plain_codecs
from tables import print_table, write_json

FLAGS = flags.FLAGS


@functools.cache
def _read_noise():
  """Return the probabilities of round(N(0, READ_NOISE^2)), and the largest value that has one."""
  most = math.ceil(9 * sky.READ_NOISE)
  below = np.array([0.5 * math.erfc(-(j - 0.5) / (sky.READ_NOISE * math.sqrt(2))) for j in range(-most, most + 2)])
  return np.diff(below), most


def probabilities(mean: float) -> tuple[int, np.ndarray]:
  """Return the first value of BIAS + Poisson(mean) + round(N(0, READ_NOISE^2)), and the probability of each from it."""
  spread = 12 * math.sqrt(mean) + 30
  first, last = max(0, math.floor(mean - spread)), math.ceil(mean + spread)
  counts = np.arange(first, last + 1)
  log_p = counts * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in counts.tolist()])
  noise, most = _read_noise()
  return sky.BIAS + first - most, np.convolve(np.exp(log_p), noise)


@functools.cache
def _entropies():
  """Return the logarithms of means, and the entropies in bits there."""
  means = np.geomspace(1.0, 1.01 * sky.MOST_ELECTRONS, 400)
  entropies = []
  for mean in means:
    _, p = probabilities(float(mean))
    p = p[p > 0]
    entropies.append(-np.sum(p * np.log2(p)))
  return np.log(means), np.array(entropies)


def noise_entropy(scene_: np.ndarray) -> np.ndarray:
  """Return the entropy of each pixel given its mean number of electrons, in bits."""
  return np.interp(np.log(scene_), *_entropies())


def rice(frame):
  """Return the bytes of a frame's compressed data, with the best of some heights of its tiles."""
  sizes = []
  for rows in (1, 4, 16):
    file = io.BytesIO()
    part = fits.CompImageHDU(frame, compression_type="RICE_1", tile_shape=(rows, frame.shape[1]))
    fits.HDUList([fits.PrimaryHDU(), part]).writeto(file)
    with fits.open(io.BytesIO(file.getvalue()), disable_image_compression=True) as stored:
      sizes.append(int(stored[1].header["PCOUNT"]))
    with fits.open(io.BytesIO(file.getvalue())) as stored:
      assert np.array_equal(stored[1].data, frame)
  return min(sizes)


def archive(model, frames):
  """Return the bytes of an archive of the frames that decodes to them, and the seconds of coding and decoding."""
  shape = model.config.image_shape
  codec, file = Codec(model), io.BytesIO()
  files = [ImageFile(f"{i:02}.png", frame[..., np.newaxis]) for i, frame in enumerate(frames)]
  begin = time.monotonic()
  write_pictures(ArchiveWriter(file, codec, "files"), files, shape)
  coded = time.monotonic()
  decoded = list(read_pictures(ArchiveReader(file), codec))
  assert all(np.array_equal(item.pixels, original.pixels) for item, original in zip(decoded, files, strict=True))
  return file.tell(), coded - begin, time.monotonic() - coded


def main(_):
  model, _ = Workdir(FLAGS.workdir).load()
  tiles = load_dataset("sky16", image_shape=model.config.image_shape).test
  frames = sky.frames()["test"][..., 0]
  scenes = [sky.scene("test", i) for i in range(len(frames))]
  entropy = float(np.mean([noise_entropy(scene) for scene in scenes]))
  bound = evaluate_bits_per_dim(model, tiles, FLAGS.num_samples).bounds[-1]
  size, seconds, back = archive(model, frames)
  results = {
    "entropy of the noise given the scene": entropy,
    "bound of the model": bound.bits_per_dim,
    "archive": 8 * size / frames.size,
    **{row["codec"]: 8 * row["bytes"] / frames.size for row in plain_codecs.rows(frames)},
    "FITS, Rice": 8 * sum(map(rice, frames)) / frames.size,
  }
  row = lambda name, bits: {"": name, "bits/pixel": f"{bits:.3f}", "of the entropy": f"{bits / entropy:.3f}"}
  print_table([row(name, bits) for name, bits in results.items()])
  print(f"{len(frames)} frames, {frames.size:,} pixels; coded in {seconds:.0f} s, decoded in {back:.0f} s")
  if FLAGS.output:
    write_json(FLAGS.output, {"bits_per_pixel": results, "seconds": [seconds, back]})


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "Working directory of the run.", required=True)
  flags.DEFINE_integer("num_samples", 1, "Samples of the bound.")
  flags.DEFINE_string("output", None, "File for the results, JSON.")
  app.run(main)

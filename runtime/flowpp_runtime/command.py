"""The command flowpp-runtime: samples as a PNG or .npy file, and bits/dim of images as lines."""

from __future__ import annotations

import argparse
import io
import math
import os
import pathlib
import struct
import sys
import zlib

import numpy as np

from flowpp_runtime import Model, __version__


def main(arguments: list[str] | None = None) -> int:
  """Run the command; return its exit code: 2 for bad input, 130 for Ctrl-C, each with one line that says what."""
  given = _parser().parse_args(arguments)
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may have letters that a terminal has not
  try:
    given.run(given)
  except KeyboardInterrupt:
    print("flowpp-runtime: stopped by Ctrl-C", file=sys.stderr)
    return 130
  except (ValueError, OSError, MemoryError) as error:
    print(f"flowpp-runtime: error: {error}", file=sys.stderr)
    return 2
  return 0


def _parser():
  parser = argparse.ArgumentParser("flowpp-runtime", description=__doc__)
  parser.add_argument("--version", action="version", version=__version__)
  commands = parser.add_subparsers(required=True, metavar="sample|score")
  sample = commands.add_parser("sample", help="draw samples")
  score = commands.add_parser("score", help="print bits/dim, a line for each image")
  for command, run in ((sample, _sample), (score, _score)):
    command.set_defaults(run=run)
    command.add_argument("model", help="directory that bin/export --format=onnx wrote")
    command.add_argument("--label", type=int, help="class of all images, of a model with classes")
    command.add_argument("--seed", type=int, default=0, help="seed of what is drawn")
  sample.add_argument("--n", type=int, default=16, help="how many")
  sample.add_argument("--temperature", type=float, default=1.0, help="factor of the latents' standard deviation")
  sample.add_argument("--output", default="samples.png", help="a .png file with a grid of all, or an .npy file")
  score.add_argument("images", help=".npy file of integers [N, H, W, C]")
  score.add_argument("--num_samples", type=int, default=1, help="samples of the importance-weighted bound")
  return parser


def _sample(given):
  if pathlib.Path(given.output).suffix not in (".png", ".npy"):
    raise ValueError(f"--output must end in .png or .npy, got {given.output!r}")
  model = Model(given.model)
  images = model.sample(given.n, given.temperature, given.seed, given.label)
  file = io.BytesIO()
  if given.output.endswith(".npy"):
    np.save(file, images)
  else:
    file.write(png(grid(images, model.levels)))
  _write(given.output, file.getvalue())
  _print(f"wrote {given.output}")


def _print(text):
  """Print on standard output; raise a `ValueError` if it cannot be written, such as to a file on a full disk."""
  try:
    print(text, flush=True)
  except OSError as error:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes again when it ends
    if isinstance(error, BrokenPipeError):  # as with `| head`: nobody reads on
      sys.exit(141)
    raise ValueError(f"standard output cannot be written: {error.strerror}") from None


def _write(path, content):
  """Write a file, which is there when it is complete; until then, and if that fails, an older one stays in place."""
  target = pathlib.Path(os.path.realpath(path))
  temporary = target.with_name(f".tmp.{os.getpid()}.{target.name[-40:]}")  # a name has 255 bytes at most
  try:
    temporary.write_bytes(content)
    os.replace(temporary, target)
  except OSError as error:
    raise ValueError(f"{path!r} cannot be written: {error.strerror or error}") from None
  finally:
    temporary.unlink(missing_ok=True)


def _score(given):
  images = _array(given.images)
  arguments = dict(labels=given.label, num_samples=given.num_samples, seed=given.seed)
  _print("\n".join(f"{bits:.6f}" for bits in Model(given.model).bits_per_dim(images, **arguments)))


def _array(path):
  """Return the array of an .npy file; raise a `ValueError` or an `OSError` for any other file."""
  with open(path, "rb") as file:
    try:
      return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # NumPy has many for damaged files, and for headers of more than memory holds
      raise ValueError(f"{path!r} must be an .npy file that fits into memory: {error}") from None


def grid(images: np.ndarray, levels: int) -> np.ndarray:
  """Return images `[N, H, W, C]` as one picture of shades, uint8, in nearly as many rows as columns."""
  count, height, width, channels = images.shape
  columns = math.ceil(math.sqrt(count))
  rows = math.ceil(count / columns)
  picture = np.zeros((rows * columns, height, width, channels), np.uint8)
  picture[:count] = np.round(images * (255 / (levels - 1)))
  picture = picture.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
  return picture.reshape(rows * height, columns * width, channels)


def png(picture: np.ndarray) -> bytes:
  """Return a picture, uint8 `[H, W, 1 or 3]`, as a PNG file."""
  height, width, channels = picture.shape
  if channels not in (1, 3):
    raise ValueError(f"a PNG has 1 or 3 channels, the model has {channels}: give an .npy file as --output")

  def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

  rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)  # 0: no filter
  header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
  chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), chunk(b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


if __name__ == "__main__":
  sys.exit(main())

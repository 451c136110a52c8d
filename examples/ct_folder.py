"""Make a folder of computed tomography to train on: a head in slices of 256x256 pixels, 12 bits in 16-bit PNG.

apt-get install invesalius-examples
python examples/ct_folder.py --output=ct

A pixel is its value in Hounsfield units and 1,024. Neighbouring slices show nearly the same: validation and test are
slices side by side, and the two on each side of them are left out, which leaves 72 for training. The volume is that of
Debian's package of InVesalius (GPL-2), an anonymous example. docs/benchmarks/sky16.md has what was measured.
"""

import pathlib
import plistlib
import sys
import tarfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np
from PIL import Image

FLAGS = flags.FLAGS
AIR, LEVELS = -1024, 4096  # Hounsfield units of the lowest value; values of 12 bits
SPLITS = {"validation": range(24, 32), "test": range(48, 68)}
BETWEEN = 2  # slices next to those of another split, which nobody sees


def main(argv):
  del argv
  volume = read_volume(FLAGS.volume)
  output = pathlib.Path(FLAGS.output)
  output.mkdir(parents=True)
  lines = []
  for index, pixels in enumerate(volume):
    if split := split_of(index):
      Image.fromarray((pixels - AIR).astype(np.uint16)).save(output / f"slice_{index:03d}.png")
      lines.append(f"{split} slice_{index:03d}.png")
  (output / "splits.txt").write_text("\n".join(lines) + "\n")
  print(f"wrote {len(lines)} slices to {output}")


def read_volume(path):
  """Return the Hounsfield units of a project of InVesalius, int32 `[slices, H, W]`, which 12 bits hold."""
  with tarfile.open(path) as project:
    members = {pathlib.PurePath(member.name).name: member for member in project.getmembers() if member.isfile()}
    matrix = plistlib.load(project.extractfile(members["main.plist"]))["matrix"]
    content = project.extractfile(members[matrix["filename"]]).read()
  volume = np.frombuffer(content, matrix["dtype"]).reshape(matrix["shape"]).astype(np.int32)
  if volume.min() < AIR or volume.max() >= AIR + LEVELS:  # as of scanners that mark what is outside of their circle
    raise ValueError(f"{path} must have values from {AIR} to {AIR + LEVELS - 1}, got {volume.min()} to {volume.max()}")
  return volume


def split_of(index):
  """Return the split of a slice, None of one that is left out."""
  for split, slices in SPLITS.items():
    if index in slices:
      return split
    if slices.start - BETWEEN <= index < slices.stop + BETWEEN:
      return None
  return "train"


if __name__ == "__main__":
  flags.DEFINE_string("output", None, "Folder to make.", required=True)
  flags.DEFINE_string(
    "volume", "/usr/share/doc/invesalius-examples/examples/Cranium.inv3", "Project of InVesalius that has the volume."
  )
  app.run(main)

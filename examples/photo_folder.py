"""Make a folder of photographs to train on: those that come with this package's requirements, and others made smaller.

apt-get install budgie-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds
python examples/photo_folder.py --output=photos_train --skip=abstract,elephants,saturnian,infinite-sea,painting \
    /usr/share/backgrounds/budgie /usr/share/backgrounds /usr/share/backgrounds/mate/nature
bin/train --flagfile=configs/photos_crops.flags --dataset=folder:photos_train --splits_file=photos_train/splits.txt

The preset `photos` began with that folder. Its last run has more photographs, each at three sizes:

apt-get install lxqt-themes opencv-doc palapeli-data
wallpapers=/usr/share/lxqt/wallpapers examples=/usr/share/doc/opencv-doc/examples
python examples/photo_folder.py --output=more_photos_train --side=512,700,900 --skip=abstract,elephants,saturnian,\
infinite-sea,painting,midnight,fossa,analogpattern,umang,logo,starry,/left,/right,suzanne,ellipses,pca_test,text_,\
licenseplate,ela_modified,char,segmented,messi,happyfish,blox,aloer \
    /usr/share/backgrounds/budgie /usr/share/backgrounds /usr/share/backgrounds/mate/nature \
    /usr/share/palapeli/collection $wallpapers \
    $wallpapers/{Valendas,appleflower,beam,butterfly,cloud,drop,flowers}.png \
    $examples/data $examples/text $examples/alphamat/input_images

Of a folder the .jpg files are taken. The packaged photographs keep their split, so that validation and test are those
of `--dataset=photos`; all others are for training. Large photographs hold little in a patch of 32x32 pixels: they are
resized to --side, the larger side. None is made larger, so that a small photograph may be there once.

Eleven photographs that no preset has seen, which docs/compression.md measures:

apt-get install plasma-workspace-wallpapers
python examples/photo_folder.py --output=held_out --nopackaged \
    --skip=autumn,/flow,honeywave,pastelhills,safelanding,shell,volna /usr/share/wallpapers/*/contents/images
"""

import itertools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
from PIL import Image

from flowpp_tf.data.bundled import packaged_photographs
from flowpp_tf.data.images import flat_image, upright

FLAGS = flags.FLAGS


def paths_of(path):
  """Return `path` if it is a file, else the .jpg files in this folder."""
  if not path.is_dir():
    return [path]
  found = sorted(path.glob("*.jpg"))
  if not found:
    print(f"{path} has no .jpg files; name others one by one", file=sys.stderr)
  return found


def main(argv):
  output = pathlib.Path(FLAGS.output)
  output.mkdir(parents=True)
  lines, taken = [], set()
  for split, photographs in packaged_photographs().items() if FLAGS.packaged else ():
    for name, pixels in photographs.items():
      Image.fromarray(pixels).save(output / f"{name}.png")
      lines.append(f"{split} {name}.png")
      taken.add(name)
  for path in (path for argument in argv[1:] for path in paths_of(pathlib.Path(argument))):
    if path.is_symlink() or any(word in str(path).lower() for word in FLAGS.skip):
      continue
    stems = (f"{path.stem}{suffix}" for suffix in itertools.chain([""], (f"_{i}" for i in itertools.count(2))))
    stem = next(stem for stem in stems if stem not in taken)
    taken.add(stem)
    with Image.open(path) as image:
      photograph = flat_image(upright(image), 3)
      for side in sorted({min(int(side), max(photograph.size)) for side in FLAGS.side}):
        scale = side / max(photograph.size)
        size = round(photograph.width * scale), round(photograph.height * scale)
        name = f"{stem}.png" if len(FLAGS.side) == 1 else f"{stem}_{side}px.png"
        photograph.resize(size, Image.Resampling.LANCZOS).save(output / name)
        lines.append(f"train {name}")
  (output / "splits.txt").write_text("\n".join(lines) + "\n")
  print(f"wrote {len(lines)} photographs to {output}")


if __name__ == "__main__":
  flags.DEFINE_string("output", None, "Folder to make.", required=True)
  flags.DEFINE_list(
    "side",
    ["900"],
    "Pixels of the larger side of the other photographs, which are not enlarged; several give one picture each.",
  )
  flags.DEFINE_list("skip", [], "Leave out files whose paths have one of these words, in small letters.")
  flags.DEFINE_bool("packaged", True, "Also those that come with this package's requirements.")
  app.run(main)

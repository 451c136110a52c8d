"""Make a folder of photographs to train on: those that come with this package's requirements, and others made smaller.

share=/usr/share wallpapers=/usr/share/lxqt/wallpapers examples=/usr/share/doc/opencv-doc/examples
themes=/usr/share/wordpress/wp-content/themes faces=/usr/share/pixmaps/budgie-faces jxl=/usr/share/libjxl-testdata
apt-get install budgie-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds \
    lxqt-themes opencv-doc palapeli-data budgie-control-center-data forensics-samples-files kphotoalbum \
    libjs-bootstrap5-doc libjs-jquery-backstretch libjxl-testdata ruby-rmagick-doc \
    wordpress-theme-twentytwentyfive wordpress-theme-twentytwentyfour
python examples/photo_folder.py --output=photos_train --side=512,700,900 --skip=abstract,elephants,saturnian,\
infinite-sea,painting,midnight,fossa,analogpattern,umang,logo,starry,/left,/right,suzanne,ellipses,pca_test,text_,\
licenseplate,ela_modified,char,segmented,messi,happyfish,blox,aloer,empty,d-debian,_480,_960,_1280 \
    $share/backgrounds/budgie $share/backgrounds $share/backgrounds/mate/nature \
    $share/palapeli/collection $wallpapers \
    $wallpapers/{Valendas,appleflower,beam,butterfly,cloud,drop,flowers}.png \
    $examples/data $examples/text $examples/alphamat/input_images \
    $share/kphotoalbum/demo $share/forensics-samples/original-files/pic{1,2} \
    $share/forensics-samples/original-files/pic1/IMG_1054.JPG \
    $themes/twentytwentyfive/assets/images/{akaka-falls-state-park-flora,botany-flowers,category-anthuriums,\
category-sunflowers,coming-soon-bg-image,coral-square,dallas-creek-square,malibu-plantlife,marshland-birds-square,\
northern-buttercups-flowers,parthenon-square,red-hibiscus-closeup}.webp \
    $themes/twentytwentyfour/assets/images/{angular-roof,art-gallery,building-exterior,green-staircase,hotel-facade,\
museum,tourist-and-building,windows}.webp \
    $faces/{bicycle,book,calculator,cat,coffee2,flower2,gamepad,guitar2,headphones,hummingbird,mountain,plane,\
surfer,tomatoes,tree}.jpg \
    $share/doc/libjs-jquery-backstretch/examples \
    $share/doc/ruby-rmagick-doc/html/ex/images/{Hot_Air_Balloons,Red_Rocks,Ballerina3,Cheetah}.jpg \
    $share/doc/libjs-bootstrap5/examples/features/unsplash-photo-{1,2}.jpg \
    $jxl/external/wesaturate/500px/{cvo9xd_keong_macan,tmshre_riaphotographs,u76c0g_bliznaca}_srgb8.png \
    $jxl/jxl/flower/flower.png
bin/train --flagfile=configs/photos_crops.flags --dataset=folder:photos_train --splits_file=photos_train/splits.txt

Those are the photographs of the preset `photos`. Its first runs had the first four packages and no --side, its fifth
and sixth those up to palapeli-data.

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

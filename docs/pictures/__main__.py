"""All pictures of README and docs, light and dark, in docs/images.

python docs/pictures                          draws all, some minutes on two cores; the page of bin/demo in Chromium
python docs/pictures bits_per_dim coupling    draws these again
python docs/pictures widgets                  computes docs/widgets.html of the site's home page, which is in all too

Their sources are benchmarks/results.json and what stands beside it, the configs, and the presets, which draw images
from seeds. tests/docs/test_pictures.py compares the list with what the pages show.
"""

import argparse
import importlib
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import catalogue  # noqa: E402
import style  # noqa: E402

WIDGETS = "widgets"  # no picture, but a fragment of HTML


def main():
  known = [*catalogue.PICTURES, WIDGETS]
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(known)}")
  names = parser.parse_args().names or known
  unknown = [name for name in names if name not in known]
  if unknown:
    parser.error(f"NAME must be one of {', '.join(known)}, got {', '.join(unknown)}")
  for name in names:
    if name == WIDGETS:
      widgets = importlib.import_module(name)
      widgets.PATH.write_text(widgets.html())
      print(f"{widgets.PATH.relative_to(style.IMAGES.parents[1])}: {widgets.PATH.stat().st_size:,} bytes", flush=True)
      continue
    module, ending = catalogue.PICTURES[name]
    draw = getattr(importlib.import_module(module), name)
    for theme in style.THEMES:
      path = style.save(draw(theme), name, ending, theme)
      print(f"{path.relative_to(style.IMAGES.parents[1])}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
  main()

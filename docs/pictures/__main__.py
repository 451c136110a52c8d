"""Draw the pictures of README and docs, light and dark, into docs/images.

python docs/pictures                    draws all, some minutes on two cores; the page of bin/demo in Chromium
python docs/pictures bound coupling     draws these again

Their sources are benchmarks/results.json, the configs, the presets, which draw images from seeds, and
examples/epidemic.py.
tests/docs/test_pages.py compares the list with what the pages show.
"""

import argparse
import importlib
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import style  # noqa: E402


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(style.PICTURES)}")
  names = parser.parse_args().names or list(style.PICTURES)
  unknown = [name for name in names if name not in style.PICTURES]
  if unknown:
    parser.error(f"NAME must be one of {', '.join(style.PICTURES)}, got {', '.join(unknown)}")
  for name in names:
    module, ending = style.PICTURES[name]
    draw = getattr(importlib.import_module(module), name)
    for theme in style.THEMES:
      path = style.save(draw(theme), name, ending, theme)
      print(f"{path.relative_to(style.IMAGES.parents[1])}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
  main()

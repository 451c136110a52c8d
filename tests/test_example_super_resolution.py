"""examples/super_resolution.py, small: it runs, and a condition is worth something."""

import re

from PIL import Image

from program_calls import ROOT, run


def test_the_smaller_image_is_worth_bits_and_samples_agree_with_it(tmp_path):
  result = run([str(ROOT / "examples" / "super_resolution.py")], "--steps=40", "--filters=8",
               "--structure=columns:2", "--noplain", f"--picture={tmp_path}/grid.png", TF_CPP_MIN_LOG_LEVEL="3")
  assert result.code == 0, result.error
  given, other = (float(re.search(rf"{name} +(\S+) \+-", result.out)[1])
                  for name in ("given the smaller image", "given that of another digit"))
  assert given < other - 0.05
  ours, others = map(float, re.search(r"smaller are (\S+) levels.* other digits (\S+)", result.out).groups())
  assert ours < others
  with Image.open(tmp_path / "grid.png") as picture:
    assert picture.size[0] > 300

"""The pictures of README and docs: those of one command, all of them shown, light and dark; their charts draw."""

import importlib
import re
import sys

import numpy as np
import pytest

from flowpp_tf.config import get_config
from support.programs import ROOT

pytestmark = pytest.mark.docs

IMAGES = ROOT / "docs" / "images"
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "flowpp_tf" / "pretrained").glob("*/card.md")]
_MARKDOWN = re.compile(r"!\[([^\]]*)\]\((?!http)([^)\s]+)\)")
_HTML = re.compile(
  r'<picture><source media="\(prefers-color-scheme: dark\)" srcset="(.*?)"><img alt="(.*?)" src="(.*?)">'
)


@pytest.fixture(scope="module")
def pictures():
  """Imports a module of docs/pictures, by its name."""
  sys.path.insert(0, str(ROOT / "docs" / "pictures"))
  yield importlib.import_module
  sys.path.remove(str(ROOT / "docs" / "pictures"))


def test_what_the_pages_show_is_what_the_command_draws(pictures):
  shown = set()
  for page in PAGES:
    text = page.read_text()
    found = _MARKDOWN.findall(text)
    for dark, alt, light in _HTML.findall(text):
      assert dark == re.sub(r"(\.\w+)$", r"_dark\1", light), page
      found.append((alt, light))
    assert len(found) == text.count("![") - text.count("![](") + text.count("<img "), page
    for alt, path in found:
      assert len(alt) > 15, (page, path)  # a text for those who do not see it
      shown.add(str((page.parent / path).resolve().relative_to(ROOT)))
  catalogue = pictures("style").PICTURES
  assert shown == {f"docs/images/{name}.{ending}" for name, (_, ending) in catalogue.items()}
  files = {path.name: path.stat().st_size for path in IMAGES.iterdir()}
  assert set(files) == {f"{name}{v}.{ending}" for name, (_, ending) in catalogue.items() for v in ("", "_dark")}
  assert all(size < (100_000 if name.endswith("svg") else 300_000) for name, size in files.items())
  assert sum(files.values()) < 3_000_000


@pytest.mark.parametrize(
  "module, name",
  [("diagrams", "bound"), ("diagrams", "coupling"), ("diagrams", "multi_scale"), ("charts", "training_curves")],
)
def test_charts_and_diagrams_draw_without_a_letter_outside(pictures, module, name):
  """Nothing is cut off: all texts are within the figure, in the dark version, which has the same places."""
  figure = getattr(pictures(module), name)(pictures("style").DARK)
  figure.draw_without_rendering()
  texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
  texts += [text for axes in figure.axes if axes.axison for text in (*axes.get_yticklabels(), axes.xaxis.label)]
  assert len(texts) > 8
  for text in texts:
    box = text.get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
    assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text


def test_the_stages_of_a_structure_are_drawn_from_the_config(pictures):
  figure = pictures("diagrams").multi_scale(pictures("style").LIGHT, config="photos")
  texts = [text.get_text() for text in figure.axes[0].texts]
  squeezes = get_config("photos").structure.count("squeeze")
  height, width, channels = get_config("photos").image_shape
  sides = height >> squeezes, width >> squeezes, channels << 2 * squeezes
  assert texts.count("squeeze") == squeezes and "latent z, {} × {} × {}".format(*sides) in texts


def test_a_grid_has_its_images_at_their_places_and_shows_the_ground_between(pictures):
  style = pictures("style")
  pixels = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2, 1)
  picture = np.asarray(style.grid(pixels, style.DARK, scale=4, gap=2))
  assert picture.shape == (2 * 8 + 2, 3 * 8 + 2 * 2, 4)
  np.testing.assert_array_equal(picture[::10, ::10][:2, :3, 0], pixels[:, :, 0, 0, 0])
  assert not picture[8:10, :, 3].any() and picture[:8, :8, 3].all()

"""The sources of the site: links that work there, pages of flags, and what the check of the built pages finds."""

import re
import sys

import numpy as np
from PIL import Image
import pytest

from support.programs import ROOT, load_file, run

pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def ci():
  """Imports a file of .ci, by its name."""
  folder = str(ROOT / ".ci")
  sys.path.insert(0, folder)
  yield lambda name: load_file(f".ci/{name}.py")
  sys.path.remove(folder)


@pytest.mark.parametrize(
  "page, text, expected",
  [
    ("docs/training.md", "[data](data.md#folders)", "[data](data.md#folders)"),
    ("docs/training.md", "[home](../README.md)", "[home](index.md)"),
    ("docs/training.md", "[setup.py](../setup.py)", "`setup.py`"),
    ("docs/training.md", "[card](../flowpp_tf/pretrained/photos/card.md)", "[card](models/photos.md)"),
    ("flowpp_tf/pretrained/photos/card.md", "![s](../../../docs/flow_in_one_file.py)", "![s](../flow_in_one_file.py)"),
    ("docs/training.md", "$f[x](y)$, [paper](https://arxiv.org)", "$f[x](y)$, [paper](https://arxiv.org)"),
    (
      "docs/architecture.md",
      "![bound](images/bound.svg)",
      "![bound](images/bound.svg#only-light)![bound](images/bound_dark.svg#only-dark)",
    ),
    (
      "README.md",
      '<picture><source srcset="docs/images/bound_dark.svg"><img alt="a (b)" src="docs/images/bound.svg"></picture>',
      "![a (b)](images/bound.svg#only-light)![a (b)](images/bound_dark.svg#only-dark)",
    ),
  ],
)
def test_links_work_where_pages_are_in_the_site(ci, page, text, expected):
  assert ci("site").relinked(text, ROOT / page) == expected


@pytest.mark.parametrize("command", ["decompress", "train"])
def test_the_page_of_a_program_has_all_flags_of_its_help(ci, command):
  page = ci("program_pages").pages()[f"programs/{command}.md"]
  help_text = run([str(ROOT / "bin" / command), "--helpfull"]).out
  names = [line.strip() for line in help_text.splitlines() if line.startswith("  --")]
  assert len(names) > 10 and all(f"| `{name}` |" in page for name in names)


def test_a_notebook_calls_commands_without_flags(ci, tmp_path, monkeypatch, capsys):
  """The example of the reference, with a smaller model."""
  page = ci("program_pages").pages()["programs/index.md"]
  (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "my_photos").mkdir()
  image = np.random.RandomState(0).randint(0, 17, [8, 8]).astype(np.uint8)
  Image.fromarray(image).save(tmp_path / "my_photos" / "a.png")
  exec(example.replace('photos",', 'digits",').replace("my_digits", "my_photos"), {})
  with Image.open(tmp_path / "my_photos_again" / "a.png") as again:
    np.testing.assert_array_equal(np.asarray(again), image)
  assert "wrote my_photos.fpp: 1 files" in capsys.readouterr().out


def test_the_page_of_all_names_opens_with_the_imports_of_its_examples(ci):
  page = ci("reference_pages").pages()["index.md"]
  assert page.startswith("# All names\n\n```python\nimport numpy as np\n")


def test_every_page_of_the_site_is_in_the_navigation(ci):
  """mkdocs says the same, but only where it is installed."""
  navigation = (ROOT / "mkdocs.yml").read_text()
  site = ci("site")
  for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.py"), *site.CARDS.glob("*/*.md")]:
    assert f": {site.place(path)}\n" in navigation, path

"""README and pages: their code runs and prints what they say, links lead on, the site has them, pictures are drawn."""

import importlib
import re
import sys
import tempfile

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf.config import get_config
from support.programs import ROOT, load_file, run, run_page

pytestmark = pytest.mark.docs

BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["install", "presets", "faq", "components", "posteriors"])
def test_the_blocks_print_what_the_page_says(name, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = (ROOT / "docs" / f"{name}.md").read_text()
  found = BLOCK.findall(text)
  assert len(found) == text.count("```python") and sum(bool(said) for _, said in found) == text.count("```text")
  namespace = {}
  for code, said in found:
    exec(compile(code, f"{name}.md", "exec"), namespace)
    assert capsys.readouterr().out == said, code


def test_every_component_has_a_short_snippet_that_prints():
  text = (ROOT / "docs" / "components.md").read_text()
  _, *snippets = BLOCK.findall(text)
  assert len(snippets) == text.count("\n## ")
  for code, said in snippets:
    assert said and len(code.splitlines()) <= 12, code


def test_links_to_sections_of_pages_name_sections():
  """As GitHub and the site name them: words of the heading, in small letters, with hyphens between."""

  def sections(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

  for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
    for path, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
      target = page.parent / path if path else page
      assert anchor in sections(target), f"{page.name}: {path}#{anchor}"


IMAGENET_FIGURE = re.compile(r"(?<![\d.])[2-5]\.\d\d(?![\d.])")


def blocks(text):
  """Paragraphs, and rows of tables, each with the heading row of its table; comments of flag files as text."""
  for paragraph in re.split(r"\n\s*\n", re.sub(r"^# ?", "", text, flags=re.MULTILINE)):
    lines = paragraph.splitlines()
    if lines and lines[0].startswith("|"):
      yield from (f"{lines[0]}\n{row}" for row in lines[2:])
    else:
      yield paragraph


def without_version(text):
  """The blocks that name a figure of ImageNet and not whether it is of the old or of the new one."""
  return [
    block
    for block in blocks(text)
    if "ImageNet" in block
    and IMAGENET_FIGURE.search(block.partition("\n")[2] if block.startswith("|") else block)
    and not re.search(r"\b(old|new)\b", block.partition("\n")[2] if block.startswith("|") else block, re.IGNORECASE)
  ]


def test_figures_of_imagenet_name_its_version():
  """Two data sets have this name, and a quarter of a bit lies between them."""
  cards = ROOT.glob("flowpp_tf/pretrained/*/card.md")
  pages = [ROOT / "README.md", *ROOT.glob("configs/*.flags"), *cards, *(ROOT / "docs").rglob("*.md")]
  texts = {page.name: page.read_text() for page in pages}
  assert sum("ImageNet" in text for text in texts.values()) >= 8
  assert not [(name, block) for name, text in texts.items() for block in without_version(text)]
  bare = [re.sub(r"\b(old|new)\b", "", text, flags=re.IGNORECASE) for text in texts.values()]
  assert sum(map(len, map(without_version, bare))) >= 8  # the search finds what names no version


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


def test_the_navigation_has_every_page(ci):
  """mkdocs refuses another one, but only when the site is built."""
  reference = [f"reference/{name}" for part in ("reference_pages", "program_pages") for name in ci(part).pages()]
  pages = [*(path.relative_to(ROOT / "docs").as_posix() for path in PAGES if ROOT / "docs" in path.parents), *reference]
  entries = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2], re.MULTILINE)
  assert {*pages} <= {*entries}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


@pytest.mark.slow
def test_the_first_lines_for_a_visitor_run_and_draw_the_first_picture(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_page("README.md")
  out = capsys.readouterr().out.splitlines()
  assert out[0] == "(32,)" and out[1].startswith("tfp.distributions.FlowDistribution(")
  with Image.open("samples.png") as drawn, Image.open(ROOT / "docs" / "images" / "samples_first.png") as shown:
    assert drawn.size == shown.size
    # Not all pixels: another processor rounds otherwise, and a pixel at the edge of two levels moves.
    assert np.mean(np.abs(np.asarray(drawn, np.float64) - np.asarray(shown, np.float64)) > 8) < 0.1


@pytest.mark.slow
def test_the_page_for_keras_users_runs(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  run_page("docs/keras.md")
  assert capsys.readouterr().out.splitlines() == ["['bits_per_dim', 'loss']", "(180,)"]
  assert list(tmp_path.rglob("best.weights.h5"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_name_files_that_exist(page):
  text = page.read_text()
  for path in re.findall(r"\]\((?!http|#)([^)#\s]+)", text):
    assert (page.parent / path).exists(), path
  for program in re.findall(r"\bbin/(\w+) --", text):
    assert (ROOT / "bin" / program).exists(), program
  for path in re.findall(r"--flagfile=(configs/[\w.]+)", text):
    assert (ROOT / path).exists(), path


def test_readme_names_every_program_and_before_it_the_extras_that_it_needs():
  text = (ROOT / "README.md").read_text()
  for program in (ROOT / "bin").iterdir():
    assert f"bin/{program.name}" in text, program
  (line,) = re.findall(r"^    pip install '\.\[(.*)\]'$", text, re.MULTILINE)
  commands = text.split(line)[1].split("\n\n")[0]
  for extra, what in dict(
    train="train", data="folder:", compression="compress", codecs="--codecs", demo="demo"
  ).items():
    assert extra in line.split(",") and what in commands, extra


def test_readme_cites_what_the_citation_file_does():
  readme, citation = ((ROOT / name).read_text() for name in ("README.md", "CITATION.cff"))
  assert f"\nversion: {fpp.__version__}\n" in citation
  (title,) = re.findall(r"^  title: \"(.*)\"$", citation, re.MULTILINE)
  authors = re.findall(r"family-names: (\w+), given-names: (\w+)", citation)
  assert f"title = {{{title}}}" in readme
  assert f"author = {{{' and '.join(f'{family}, {given}' for family, given in authors)}}}" in readme


def test_readme_fits_on_a_few_screens():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_each_flag_file_opens_with_its_own_command():
  for path in (ROOT / "configs").glob("*.flags"):
    assert path.read_text().startswith(f"# bin/train --flagfile=configs/{path.name}"), path


IMAGES = ROOT / "docs" / "images"
WITH_PICTURES = [
  ROOT / "README.md",
  *(ROOT / "docs").rglob("*.md"),
  *(ROOT / "flowpp_tf" / "pretrained").glob("*/card.md"),
]
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
  for page in WITH_PICTURES:
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

"""The Python blocks of the pages that answer questions run, in their order, and print what the pages say."""

import re

import pytest

from support.programs import ROOT

pytestmark = pytest.mark.docs

BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["install", "presets", "faq", "components"])
def test_the_blocks_print_what_the_page_says(name, capsys):
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
  named = sum("ImageNet" in page.read_text() for page in pages)
  assert named >= 8
  assert not [(page.name, block) for page in pages for block in without_version(page.read_text())]


@pytest.mark.parametrize(
  "text, count",
  [
    ("On ImageNet 64x64 it has 3.69 bits/dim.", 1),
    ("On the old ImageNet 64x64 it has 3.69 bits/dim.", 0),
    ("ImageNet has 64x64 pixels.\n\nOn CIFAR-10 it has 3.08.", 0),
    ("| model | ImageNet, old |\n|---|---|\n| a | 3.69 |\n| b | 3.35, new |", 1),
  ],
)
def test_the_search_finds_figures_without_a_version(text, count):
  assert len(without_version(text)) == count

"""The Python blocks of the pages that answer questions run, in their order, and print what the pages say."""

import re

import pytest

from support.programs import ROOT

pytestmark = pytest.mark.docs

BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["install", "choose", "faq"])
def test_the_blocks_print_what_the_page_says(name, capsys):
  text = (ROOT / "docs" / f"{name}.md").read_text()
  blocks = BLOCK.findall(text)
  assert len(blocks) == text.count("```python") and sum(bool(said) for _, said in blocks) == text.count("```text")
  namespace = {}
  for code, said in blocks:
    exec(compile(code, f"{name}.md", "exec"), namespace)
    assert capsys.readouterr().out == said, code


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


def test_pages_open_with_what_the_reader_can_do():
  for page in sorted((ROOT / "docs").rglob("*.md")):
    title, _, lead, *_ = page.read_text().splitlines()
    assert title.startswith("# ") and lead.startswith("After this page you "), page.name

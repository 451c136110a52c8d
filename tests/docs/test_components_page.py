"""The snippets of docs/components.md run, in their order, and print what the page says."""

import re

import pytest

from support.programs import ROOT

pytestmark = pytest.mark.docs

PAGE = (ROOT / "docs" / "components.md").read_text()


@pytest.mark.slow
@pytest.mark.docs
def test_the_snippets_print_what_the_page_says(capsys):
  blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, re.DOTALL)
  assert len(blocks) == PAGE.count("```python") == PAGE.count("\n## ") + 1
  namespace = {}
  for code, said in blocks:
    exec(compile(code, "components.md", "exec"), namespace)
    assert capsys.readouterr().out == said, code
  assert all(said for _, said in blocks[1:])


def test_snippets_are_short():
  for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[1:]:
    assert len(code.splitlines()) <= 12, code

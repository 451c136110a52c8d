"""The code of README and of the pages about Python runs, and what the pages name exists."""

import re
import tempfile

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from support.programs import ROOT

pytestmark = pytest.mark.docs

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


def run_page(name):
  """Execute the Python code of a page, each block by itself."""
  snippets = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
  assert snippets
  for snippet in snippets:
    exec(compile(snippet, name, "exec"), {})


@pytest.mark.slow
@pytest.mark.docs
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
@pytest.mark.docs
def test_the_page_for_keras_users_runs(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  run_page("docs/keras.md")
  assert capsys.readouterr().out.splitlines() == ["['bits_per_dim', 'loss']", "(180,)"]
  assert list(tmp_path.rglob("best.weights.safetensors"))


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

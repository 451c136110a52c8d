"""What docs/extending.md adds to the package works: a coupling, a data set, a setting, each as the page says."""

import re
import shutil

import pytest

from support.programs import ROOT, run
from support.runs import TINY_RUN

pytestmark = [pytest.mark.slow, pytest.mark.docs]

PAGE = (ROOT / "docs" / "extending.md").read_text()


def section(title):
  """The first block of code, and the first line that is added, of a section."""
  text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
  code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
  return code and code[1], re.search(r"\n    (\S.*)\n", re.sub(r"```.*?```", "", text, flags=re.DOTALL))[1]


def test_a_coupling_a_data_set_and_a_recipe_of_ones_own_are_trained(tmp_path):
  for title, file in (("Add a coupling", "tails.py"), ("Add a data set", "stripes.py")):
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    definition, registration = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    assert "fpp.register_" in registration and file in text
    (tmp_path / file).write_text(definition + registration)
  ours = ["--import=tails", "--import=stripes"]
  train = ["train", *TINY_RUN, "--config=stripes", "--coupling=tails", "--labels", "--steps=1", "--workdir=run"]
  result = run(*train, *ours, cwd=tmp_path)
  assert result.code == 0 and "data: stripes, " in result.out, result.error
  for more, code in ((ours, 0), ([], 2)):
    result = run("sample", "--workdir=run", "--n=1", *more, cwd=tmp_path)
    assert result.code == code, result.error
  assert "(--import=MODULE registers others), got 'tails'" in result.error


def insert(path, before, line):
  text = path.read_text()
  assert text.count(before) == 1
  path.write_text(text.replace(before, f"  {line}\n{before}"))


def test_a_coupling_a_data_set_and_a_setting_are_trained(tmp_path):
  for name in ("flowpp_tf", "configs", "bin"):
    shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
  package = tmp_path / "flowpp_tf"
  for title, file, before in (
    ("Add a coupling", "bijectors/tails.py", '  "affine":'),
    ("Add a data set", "data/stripes.py", '  "photos":'),
  ):
    code, line = section(title)
    (package / file).write_text(code)
    insert(package / "core" / "registry.py", before, line)
  insert(package / "config" / "training.py", "  flip: bool", section("Add a setting")[1])
  train = [str(tmp_path / "bin" / "train"), *TINY_RUN, "--steps=1", "--workdir=run"]
  options = ["--coupling=tails", "--levels=2", "--dataset=stripes", "--labels", "--polyak=0.5"]
  result = run([*train, *options], cwd=tmp_path)
  assert result.code == 0 and "\ntest, data " in result.out, result.error
  for wrong, message in (
    ("--polyak=1.5", "`polyak` must be in [0, 1), got 1.5"),
    ("--coupling=tail", "`coupling` must be one of mixture_logistic, tails, affine, rational_quadratic ("),
    ("--dataset=stripe", "unknown dataset 'stripe'; did you mean stripes?"),
    ("--nolabels --crops", "`crops` are for photos, elpv, sky16 and folders; the data set is 'stripes'"),
  ):
    result = run([*train, *options, *wrong.split()], cwd=tmp_path)
    assert result.code == 2 and message in result.error
  run([*train, "--coupling=tails", "--workdir=plain"], cwd=tmp_path).ok()
  compress = [str(tmp_path / "bin" / "compress"), "--workdir=plain", "--limit=2", "--output=x.fpp"]
  result = run(compress, cwd=tmp_path)
  assert result.code == 2 and "a model with `coupling` tails cannot compress" in result.error

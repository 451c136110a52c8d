"""README's snippets run, and what it names exists."""

import pathlib
import re
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def run_snippet(section):
  """Execute the only Python code of a section of README.md."""
  _, text = README.split(f"\n## {section}\n")
  snippet, = re.findall(r"```python\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
  exec(compile(snippet, "README.md", "exec"), {})


def test_the_snippet_for_tfp_users_runs(capsys):
  run_snippet("In your own TFP code")
  assert capsys.readouterr().out.splitlines() == [
      "(4,) (4, 8, 8, 1)", "(4,)",
      'tfp.distributions.ImageDistribution('
      '"image_distribution", batch_shape=[], event_shape=[8, 8, 1], dtype=int32)',
      "(5,)", "(2,) 2"]


def test_the_snippet_for_keras_users_runs(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  run_snippet("Train it with Keras")
  assert capsys.readouterr().out.splitlines() == ["['bits_per_dim', 'loss']", "(180,)"]
  assert list(tmp_path.rglob("best.weights.h5"))


def test_links_and_commands_name_files_that_exist():
  for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
    assert (ROOT / path).exists(), path
  for program in re.findall(r"\bbin/(\w+) --", README):
    assert (ROOT / "bin" / program).exists(), program
  for path in re.findall(r"--flagfile=(\S+)", README):
    assert (ROOT / path).exists(), path


def test_each_flag_file_opens_with_its_own_command():
  for path in (ROOT / "configs").glob("*.flags"):
    assert path.read_text().startswith(f"# bin/train --flagfile=configs/{path.name}"), path

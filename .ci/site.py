"""Writes the source of the site into build/docs: README and docs/ with links that work there, and the reference.

python .ci/site.py && mkdocs build

Links to files of the repository that are no pages become plain names. Each public name gets an entry in the reference.
"""

import inspect
import os
import pathlib
import re
import shutil

import flowpp_tf as fpp

ROOT = pathlib.Path(__file__).parent.parent
TARGET = ROOT / "build" / "docs"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def relinked(text, page):
  """The text of a page of the repository, at its place in the site."""

  def relink(match):
    image, label, target = match.groups()
    path, hash_sign, anchor = target.partition("#")
    if target.startswith("http") or not path:
      return match[0]
    found = (page.parent / path).resolve().relative_to(ROOT)
    if found.parts[0] == "docs" and found.suffix in (".md", ".png", ".py") and found.name != "architecture.py":
      there = found.relative_to("docs")
    elif found == pathlib.Path("README.md"):
      there = pathlib.Path("index.md")
    elif found == pathlib.Path("CHANGELOG.md"):
      there = found
    else:
      return f"`{found}`" if label == str(found) or label.endswith(found.name) else f"{label} (`{found}`)"
    here = pathlib.Path("." if page.parent == ROOT else page.parent.relative_to(ROOT / "docs"))
    return f"{image}[{label}]({os.path.relpath(there, here)}{hash_sign}{anchor})"

  return LINK.sub(relink, text)


def entries(title, intro, objects):
  """A page of the reference."""
  lines = [f"# {title}", "", intro, ""]
  for name, value in objects:
    where = f"{value.__module__}.{value.__qualname__}"
    lines += [f"::: {where}", "    options:", f"      heading: '{name}'", ""]
  return "\n".join(lines)


def public(module):
  """Names and classes or functions of a module, in the order of their names."""
  names = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
  values = [(name, getattr(module, name)) for name in sorted(names)]
  return [
    (name, value)
    for name, value in values
    if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("flowpp_tf")
  ]


def main():
  shutil.rmtree(TARGET, ignore_errors=True)
  shutil.copytree(ROOT / "docs", TARGET, ignore=shutil.ignore_patterns("architecture.py", "__pycache__"))
  pages = [(path, TARGET / path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
  pages += [(ROOT / "README.md", TARGET / "index.md"), (ROOT / "CHANGELOG.md", TARGET / "CHANGELOG.md")]
  for page, target in pages:
    target.write_text(relinked(page.read_text(), page))
  (TARGET / "reference").mkdir()
  for name, title, intro, module in (
    ("index", "Python", "`import flowpp_tf as fpp`. `fpp.CONFIGS` is the `dict` of all configs by name.", fpp),
    ("bijectors", "Bijectors", "`from flowpp_tf import bijectors as fb`", fpp.bijectors),
    ("distributions", "Distributions", "`fpp.distributions`", fpp.distributions),
    ("layers", "Layers", "`fpp.layers`", fpp.layers),
  ):
    (TARGET / "reference" / f"{name}.md").write_text(entries(title, intro, public(module)))


if __name__ == "__main__":
  main()

"""Writes the source of the site into build/docs: README, docs/, model cards, and the reference.

python .ci/site.py && mkdocs build

Links to files of the repository that are not pages become plain names. An image with a NAME_dark in its folder is
shown in that form on dark pages; README has such images as <picture>, which GitHub knows.
"""

import os
import pathlib
import re
import shutil

import browser_page
import program_pages
import reference_pages

ROOT = pathlib.Path(__file__).parent.parent
TARGET = ROOT / "build" / "docs"
CARDS = ROOT / "flowpp_tf" / "pretrained"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PICTURE = re.compile(r'<picture>.*?<img alt="([^"]*)" src="([^"]*)"></picture>')
SCRIPTS = "pictures"  # a folder of docs/ without pages


def place(path):
  """The place in the site of a file of the repository, None if it has none."""
  path = path.relative_to(ROOT)
  if path.parts[0] == "docs" and path.suffix in (".md", ".png", ".py", ".svg") and path.parts[1] != SCRIPTS:
    return path.relative_to("docs")
  if path.name == "card.md":
    return pathlib.Path("models", f"{path.parent.name}.md")
  return {"README.md": pathlib.Path("index.md"), "CHANGELOG.md": path, "CONTRIBUTING.md": path}.get(str(path))


def relinked(text, page):
  """The text of a page of the repository, at its place in the site."""
  here = place(page).parent

  def relink(match):
    image, label, target = match.groups()
    path, hash_sign, anchor = target.partition("#")
    found = (page.parent / path).resolve()
    if target.startswith("http") or not path or not found.exists():  # not there: no link, as in a formula
      return match[0]
    there = place(found)
    if there is None:
      name = str(found.relative_to(ROOT))
      return f"`{name}`" if label == name or label.endswith(found.name) else f"{label} (`{name}`)"
    link = lambda to, anchor: f"{image}[{label}]({os.path.relpath(to, here)}{anchor})"
    if image and found.with_name(f"{found.stem}_dark{found.suffix}").exists():
      dark = there.with_name(f"{there.stem}_dark{there.suffix}")
      return f"{link(there, '#only-light')}{link(dark, '#only-dark')}"
    return link(there, f"{hash_sign}{anchor}")

  return LINK.sub(relink, PICTURE.sub(r"![\1](\2)", text))


def main():
  shutil.rmtree(TARGET, ignore_errors=True)
  shutil.copytree(ROOT / "docs", TARGET, ignore=shutil.ignore_patterns(SCRIPTS, "__pycache__"))
  pages = [*(ROOT / "docs").rglob("*.md"), *CARDS.glob("*/card.md")]
  for page in [*pages, *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"))]:
    target = TARGET / place(page)
    target.parent.mkdir(exist_ok=True)
    target.write_text(relinked(page.read_text(), page))
  browser_page.write(TARGET / "browser")
  for name, text in {**reference_pages.pages(), **program_pages.pages()}.items():
    target = TARGET / "reference" / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)


if __name__ == "__main__":
  main()

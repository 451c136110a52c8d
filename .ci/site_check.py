"""Looks at the built site in build/site: examples, names, links, pictures, equations; prints counts, fails with a list.

python .ci/site_check.py
"""

import collections
import html.parser
import inspect
import pathlib
import sys
import urllib.parse

import reference_pages

ROOT = pathlib.Path(__file__).parent.parent
SITE = ROOT / "build" / "site"
_VOID = {"img", "br", "hr", "input", "meta", "link", "path", "source", "wbr", "col", "area"}


class Page(html.parser.HTMLParser):
  """What the check needs to know of a page.

  Attributes:
    ids: anchors.
    links: targets of links, and of what the page loads.
    loaded: of these, what the browser loads by itself.
    without_alt: pictures without a text for those who do not see them.
    blocks: code blocks, each with the id of the last heading before it.
    copies: what buttons copy where that is not the block, with these ids.
    equations: number of typeset equations.
    raw_equations: number of those that were not typeset.
  """

  def __init__(self, path):
    super().__init__()
    self.ids, self.links, self.loaded, self.without_alt, self.blocks = set(), [], [], [], []
    self.copies = []
    self.equations = self.raw_equations = 0
    self._heading, self._block = "", None
    self.feed(path.read_text())

  def handle_starttag(self, tag, attributes):
    given = dict(attributes)
    classes = (given.get("class") or "").split()
    self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
    loaded = [given.get("src")] + ([given.get("href")] if tag == "link" and given.get("rel") != "canonical" else [])
    self.loaded += filter(None, loaded)
    self.links += filter(None, (given.get("src"), given.get("href")))
    if tag == "img" and not (given.get("alt") or "").strip():
      self.without_alt.append(given.get("src", "")[:60])
    if tag in ("h1", "h2", "h3", "h4", "h5") and given.get("id"):
      self._heading = given["id"]
    if "data-copy" in given:
      self.copies.append((self._heading, given["data-copy"]))
    self.equations += classes == ["katex"]
    self.raw_equations += "arithmatex" in classes or "katex-error" in classes
    if tag == "pre":
      self._block = ""

  def handle_data(self, data):
    if self._block is not None:
      self._block += data

  def handle_endtag(self, tag):
    if tag == "pre" and self._block is not None:
      self.blocks.append((self._heading, self._block))
      self._block = None


def examples_in_docstrings(path, value):
  """The text of the examples of an entry and of its methods, by anchor."""
  found = {path: _examples(value)}
  if inspect.isclass(value):
    found |= {f"{path}.{name}": _examples(method) for name, method in vars(value).items() if name[0] != "_"}
  return {anchor: text for anchor, text in found.items() if text}


def _examples(value):
  value = getattr(value, "__func__", value)
  text = vars(value).get("__doc__") if inspect.isclass(value) else getattr(inspect.unwrap(value), "__doc__", None)
  if not isinstance(text, str) or "Examples:\n" not in text:
    return ""
  return inspect.cleandoc(inspect.cleandoc(text).partition("Examples:\n")[2]).strip()


def check_reference(pages):
  """Problems of the reference: names without an entry, examples that are no code block; and counts."""
  problems, counts = [], collections.Counter()
  anchors = {anchor: page for path, page in pages.items() if path.parts[:1] == ("reference",) for anchor in page.ids}
  for path, value in {
    entry[0]: entry for room in reference_pages.entries().values() for entry in room.values()
  }.values():
    counts["public names"] += 1
    if path not in anchors:
      problems.append(f"{path} has no entry in the reference")
      continue
    counts["names with an entry"] += 1
    if not callable(value):
      continue
    expected = examples_in_docstrings(path, value)
    if path not in expected:
      problems.append(f"{path} has no example")
    for anchor, text in expected.items():
      counts["examples in docstrings"] += 1
      blocks = [block.strip() for heading, block in anchors[path].blocks if heading == anchor]
      if text in blocks:
        counts["examples as code blocks"] += 1
      else:
        problems.append(f"{anchor}: its example is no code block of the page")
      code = "\n".join(line[4:] for line in text.splitlines() if line[:3] in (">>>", "..."))
      if (anchor, code) in anchors[path].copies:
        counts["examples that can be pasted"] += 1
      else:
        problems.append(f"{anchor}: the button of its example copies more than its code")
  return problems, counts


def check_pages(pages):
  """Problems of links, pictures and equations of all pages; and counts."""
  problems, counts = [], collections.Counter(pages=len(pages))
  for path, page in pages.items():
    for link in page.links:
      problem = _problem(link, path, pages)
      counts["links"] += 1
      problems += [f"{path}: {problem}: {link}"] if problem else []
    other = [link for link in page.loaded if urllib.parse.urlsplit(link).netloc]
    problems += [f"{path} loads from another server: {link}" for link in other]
    problems += [f"{path}: a picture without a text: {source}" for source in page.without_alt]
    problems += [f"{path}: {page.raw_equations} equations are not typeset"] * bool(page.raw_equations)
    counts["equations"] += page.equations
  return problems, counts


def _problem(link, path, pages):
  """What is wrong with a link of a page, None if nothing is."""
  parts = urllib.parse.urlsplit(link)
  if parts.scheme or parts.netloc:
    return None if parts.scheme in ("http", "https", "data", "mailto") else "a link of another kind"
  target = urllib.parse.unquote(parts.path)
  found = (SITE / target.lstrip("/")) if target.startswith("/") else (SITE / path.parent / target)
  found = found.resolve() if target else SITE / path
  if found.is_dir():
    found /= "index.html"
  if not found.exists():
    return "a dead link"
  anchor = urllib.parse.unquote(parts.fragment)
  if anchor and found.suffix == ".html" and anchor not in pages[found.relative_to(SITE)].ids:
    return "a dead anchor"
  return None


def main():
  pages = {path.relative_to(SITE): Page(path) for path in sorted(SITE.rglob("*.html"))}
  problems, counts = [], {}
  for check in (check_pages, check_reference):
    found, numbers = check(pages)
    problems += found
    counts |= numbers
  print(", ".join(f"{number} {what}" for what, number in counts.items()))
  with_equations = {str(path.parent): page.equations for path, page in pages.items() if page.equations}
  print(f"equations: {', '.join(f'{path} {number}' for path, number in with_equations.items()) or 'none'}")
  for problem in problems:
    print(f"error: {problem}", file=sys.stderr)
  sys.exit(bool(problems))


if __name__ == "__main__":
  main()

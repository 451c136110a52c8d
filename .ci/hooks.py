"""Hooks of mkdocs: equations are typeset while the site is built, and nothing is loaded from other servers.

KaTeX is the npm package of that name; the site gets its style sheet and fonts, and no script. A formula that KaTeX
cannot read ends the build.
"""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import npm  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
VERSION = "0.16.47"
SHA512 = "Eeo8Ys1doU1z+x8AZsPpQu+p/QcZBI5PeOo7QGQdy2x2m0MU/hYagBbGOmXwr5KVbEfVuWv9LpnQWeehogurjg=="
KATEX = ROOT / "build" / f"katex-{VERSION}"
_RENDER = """
const katex = require(process.argv[1]);
const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
const render = ([text, display]) => katex.renderToString(text, {displayMode: display, strict: "error"});
console.log(JSON.stringify(formulas.map(render)));
"""
_ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.DOTALL)
_IN_NOTEBOOK = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_MARKDOWN_CELL = re.compile(r'(<div class="jp-RenderedHTMLCommon jp-RenderedMarkdown.*?</div>)', re.DOTALL)
_FROM_ELSEWHERE = re.compile(r"<script(?:(?!</script>).)*?https://(?:(?!</script>).)*?</script>", re.DOTALL)
_LINK = re.compile(r'href="(?![a-z]+:|[/#])([^"#]+\.(?:md|py))')
_EXAMPLE = re.compile(
  r'<div class="highlight">(<pre><span></span><code>(<span class="gp">.*?)</code></pre>)', re.DOTALL
)
_NO_ALT = 'alt="No description has been provided for this image"'


def on_config(config):
  """Fetch KaTeX, and leave out of the navigation what has no page: a page that is missing there is a warning."""
  # Not over TCP, of which each kernel of a tutorial warns.
  from jupyter_client.manager import KernelManager

  KernelManager.transport.default_value = "ipc"
  _fetch_katex()
  config.nav = _existing(config.nav, pathlib.Path(config.docs_dir))
  return config


def _existing(entries, folder):
  found = []
  for entry in entries:
    ((title, value),) = entry.items()
    if isinstance(value, list):
      value = _existing(value, folder)
    elif not (folder / value).exists():
      continue
    if value:
      found.append({title: value})
  return found


def _fetch_katex():
  npm.fetch("katex", VERSION, SHA512, _place_in_katex, KATEX)


def _place_in_katex(path):
  if path.suffix == ".woff2":
    return f"fonts/{path.name}"
  return path.name if path.name in ("katex.min.js", "katex.min.css", "LICENSE") else None


def on_page_content(content, page, config, files):
  """Typeset the equations of a page and say what buttons copy; of a tutorial, mend links and describe pictures."""
  del config
  if page.file.src_path.endswith(".py"):
    content = _FROM_ELSEWHERE.sub("", content).replace(_NO_ALT, 'alt="What the code above draws"')
    content = _LINK.sub(lambda link: f'href="{_place(link[1], page, files)}', content)
  content = _EXAMPLE.sub(_with_code_to_copy, content)
  formulas = []

  def collect(match):
    *_, inline, display = match.groups()
    return mark(inline if inline is not None else display, inline is None)

  def mark(text, display):
    formulas.append((html.unescape(text).strip(), display))
    return f"\0{len(formulas) - 1}\0"

  content = _ARITHMATEX.sub(collect, content)
  if page.file.src_path.endswith(".py"):
    in_cell = lambda match: mark(match[1] or match[2] or match[3], match[3] is None)
    content = _MARKDOWN_CELL.sub(lambda cell: _IN_NOTEBOOK.sub(in_cell, cell[0]), content)
  if not formulas:
    return content
  result = subprocess.run(
    ["node", "-e", _RENDER, str(KATEX / "katex.min.js")], input=json.dumps(formulas), capture_output=True, text=True
  )
  if result.returncode:
    raise RuntimeError(f"{page.file.src_path}: KaTeX: {result.stderr}")
  rendered = json.loads(result.stdout)
  return re.sub("\0(\\d+)\0", lambda match: rendered[int(match[1])], content)


def _with_code_to_copy(match):
  """A block of an example, whose button copies the code without prompts and output."""
  lines = html.unescape(re.sub("<[^>]*>", "", match[2])).splitlines()
  code = "\n".join(line[4:] for line in lines if line[:3] in (">>>", "..."))
  return f'<div class="highlight" data-copy="{html.escape(code)}">{match[1]}'


def _place(link, page, files):
  """The address of what a tutorial links to by the name of its source."""
  path = os.path.normpath(os.path.join(os.path.dirname(page.file.src_uri), link))
  file = files.get_file_from_path(path)
  return link if file is None else file.url_relative_to(page.file)


def on_post_build(config):
  """Copy KaTeX's style sheet and fonts into the site."""
  target = pathlib.Path(config.site_dir) / "katex"
  shutil.copytree(KATEX, target, ignore=shutil.ignore_patterns(".complete", "*.js"), dirs_exist_ok=True)

"""Opens all pages of build/site in Chromium: no error, no request to another server, no equation that is not typeset,
nothing that is wider than its place, no button over code; the model of one page computes there.

python .ci/site_browser.py [FOLDER FOR SCREENSHOTS]
"""

import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import sys
import threading

from playwright import sync_api

SITE = pathlib.Path(__file__).parent.parent / "build" / "site"
IN_ALL_LOOKS = (
  "",
  "tutorials/first_flow/",
  "training/",
  "architecture/",
  "reference/bijectors/",
  "reference/programs/train/",
  "browser/",
)
WITH_EQUATIONS = ("architecture/",)
LOOKS = {"light": (1280, "light"), "dark": (1280, "dark"), "phone": (400, "light")}  # width in pixels, scheme
# Tables that are wider than their place.
_WIDE = """() => [...document.querySelectorAll("article table")].filter(table => {
  const wider = element => element.scrollWidth > element.clientWidth + 1
  return table.clientWidth && (wider(table) || wider(table.closest(".md-typeset__scrollwrap") || table.parentElement))
}).map(table => table.innerText.slice(0, 60))"""
_EQUATIONS = "[document.querySelectorAll('.katex').length, document.querySelectorAll('.katex-error').length]"
# Buttons that copy and lie over the code.
_COVERING = """() => [...document.querySelectorAll(".md-code__nav")].filter(button => {
  const code = button.parentElement.querySelector("code")
  return code.getBoundingClientRect().right > button.getBoundingClientRect().left
}).length"""


@contextlib.contextmanager
def served():
  """The address of a server of the site, on loopback."""

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f"http://127.0.0.1:{server.server_port}/"
  finally:
    server.shutdown()


def look(context, address, page, name, shots):
  """Open a page in one of the looks; return what is wrong with it."""
  tab, problems, wide = context.new_page(), [], LOOKS[name][0] >= 1280
  tab.on("console", lambda message: message.type == "error" and problems.append(f"console: {message.text}"))
  tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
  tab.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
  tab.on("response", lambda answer: answer.status >= 400 and problems.append(f"{answer.status}: {answer.url}"))
  ours = (address, "data:", "blob:")
  tab.on("request", lambda sent: sent.url.startswith(ours) or problems.append(f"from another server: {sent.url}"))
  tab.goto(address + page, wait_until="networkidle")
  if tab.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"):
    problems.append("the page is wider than the window")
  equations, unread = tab.evaluate(_EQUATIONS)
  if unread or (page in WITH_EQUATIONS and not equations):
    problems.append(f"{unread} equations cannot be read, {equations} are typeset")
  if covering := tab.evaluate(_COVERING):
    problems.append(f"{covering} buttons cover code")
  if wide:
    problems += [f"a table overflows: {text!r}" for text in tab.evaluate(_WIDE)]
    problems += copied(tab)
  if page == "browser/" and name == "light":
    problems += computed(tab)
  if shots:
    tab.screenshot(path=f"{shots}/{page.strip('/').replace('/', '_') or 'home'}_{name}.png")
  tab.close()
  return [f"{page or 'home'}, {name}: {problem}" for problem in problems]


def copied(tab):
  """What is wrong with what the buttons of examples copy: code without prompts and output."""
  blocks = tab.locator(".highlight:has(.gp)")
  problems = []
  for i in range(min(blocks.count(), 3)):
    blocks.nth(i).hover()
    blocks.nth(i).locator("button[data-md-type=copy], .md-clipboard, .md-code__button").first.click()
    text = tab.evaluate("navigator.clipboard.readText()")
    shown = blocks.nth(i).locator("code").inner_text().splitlines()
    expected = [line[4:] for line in shown if line[:3] in (">>>", "...") and line[4:]]
    if [line for line in text.splitlines() if line] != expected:
      problems.append(f"the button copies {text!r}")
  return problems


def computed(tab):
  """What is wrong with the samples of the model in the page, and with the score of the first test digit."""
  tab.set_default_timeout(300_000)
  tab.click(".sample")
  tab.wait_for_selector("#flow[data-milliseconds]")
  tab.click(".test")
  tab.wait_for_selector("#flow[data-bits-per-dim]")
  print(f"a model in the page: {float(tab.evaluate('flow.dataset.milliseconds')):.1f} ms per sample")
  found = float(tab.evaluate("flow.dataset.bitsPerDim"))
  (expected, *_) = json.loads((SITE / "browser" / "tests.json").read_text())["bits_per_dim"]
  problems = (
    [] if abs(found - expected) < 0.05 else [f"{found} bits/dim rather than {expected}"]
  )  # other draws of noise
  status = tab.inner_text(".status")
  return problems + ([f"the page says {status!r}"] if status else [])


def main():
  shots = sys.argv[1] if len(sys.argv) > 1 else None
  program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
  if program is None:
    sys.exit("error: Chromium is needed to look at the site")
  with served() as address, sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
    pages = [path.relative_to(SITE).as_posix().removesuffix("index.html") for path in sorted(SITE.rglob("*.html"))]
    problems = []
    for name, (width, scheme) in LOOKS.items():
      context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
      context.grant_permissions(["clipboard-read", "clipboard-write"])
      for page in pages if name == "light" else IN_ALL_LOOKS:
        problems += look(context, address, page, name, shots)
    browser.close()
  for problem in problems:
    print(f"error: {problem}", file=sys.stderr)
  print(f"{len(pages)} pages opened, {len(IN_ALL_LOOKS)} of them in {len(LOOKS)} looks: {len(problems)} problems")
  sys.exit(bool(problems))


if __name__ == "__main__":
  main()

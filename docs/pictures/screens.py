"""The page of bin/demo as a browser shows it; it needs gradio, Playwright and Chromium."""

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile

from PIL import Image
import style

ROOT = style.IMAGES.parents[1]
PRESET, PORT, SIZE, SECONDS = "digits", 7861, (1280, 1000), 600


@contextlib.contextmanager
def page():
  """The address of a page that runs as a program, in a folder of its own, into which it copies the preset."""
  command = [sys.executable, str(ROOT / "bin" / "demo"), f"--preset={PRESET}", f"--port={PORT}"]
  with tempfile.TemporaryDirectory() as folder:
    program = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{PORT}"
    try:
      if not any(address in line for line in program.stdout):
        raise RuntimeError(f"{' '.join(command)} ended with exit code {program.wait()}")
      yield address
    finally:
      program.terminate()
      program.wait()


def demo(theme):
  """What the page says of the first example, and its archive."""
  from playwright import sync_api

  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  name = "dark" if theme.ending else "light"
  with page() as address, sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    tab = browser.new_page(viewport=dict(zip(("width", "height"), SIZE)), color_scheme=name)
    tab.set_default_timeout(1000 * SECONDS)
    tab.goto(f"{address}?__theme={name}")
    tab.locator(".picture img").first.wait_for()
    tab.get_by_role("tab", name="Your image", exact=True).click()
    tab.get_by_role("button", name="Compress").filter(visible=True).click()
    tab.get_by_text("To decode it").filter(visible=True).wait_for()
    tab.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
    browser.close()
  return picture

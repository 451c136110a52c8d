"""The page of bin/demo as a browser shows it; it needs gradio, Playwright and Chromium."""

import contextlib
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from PIL import Image
import style

ROOT = style.IMAGES.parents[1]
PRESET, SIZE, SECONDS = "digits", (1280, 1000), 600


@contextlib.contextmanager
def page():
  """The address of a page that runs as a program."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = [sys.executable, str(ROOT / "bin" / "demo"), f"--preset={PRESET}", f"--port={port}"]
  folder = tempfile.mkdtemp()  # the program copies the preset into the current one
  program = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  address = f"http://127.0.0.1:{port}/"
  try:
    for _ in range(SECONDS):
      with contextlib.suppress(OSError):
        urllib.request.urlopen(address).close()
        break
      if program.poll() is not None:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {program.returncode}")
      time.sleep(1)
    yield address
  finally:
    program.terminate()
    program.wait()
    shutil.rmtree(folder)


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

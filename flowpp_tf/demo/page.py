"""The Gradio page: tabs for samples, interpolation, and reconstruction with scores.

The model handles one request at a time; the others wait in a queue, which their visitors see.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import html
import shutil
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo import answers as limits
from flowpp_tf.evaluation import to_shades

_FONTS = ("system-ui", "sans-serif")  # of the visitor's machine: the page loads nothing from elsewhere
LOOK = {  # arguments of `gr.Blocks.launch`
  "theme": gr.themes.Default(primary_hue="slate", font=_FONTS, font_mono=("ui-monospace", "monospace")),
  "css": """
      .gradio-container .main { width: 100%; max-width: 1152px; margin: auto; }
      .picture .image-container { padding: 36px 8px 8px; }
      .picture img { image-rendering: pixelated; }
      .text table { width: 100%; } .text thead { display: none; }
      .text tr, .text td { border-color: var(--border-color-primary) !important; }
      .text:has(.error) .md { visibility: hidden; }
    """,
  "footer_links": ["api"],
}
_LONGEST_QUEUE, _KEPT_SECONDS = 32, 3600


@dataclasses.dataclass(frozen=True, eq=False)
class DemoModel:
  """A model on the page.

  Attributes:
    name: of the model, for its tab and for its part of the API, if there are several.
    answers: answers of the model.
    about: Markdown above its tabs.
    examples: at least two uint8 images `[H, W, C]` by label; written to the folder of `answers`.
  """

  name: str
  answers: limits.DemoHandlers
  about: str
  examples: dict[str, np.ndarray]


class _Page(gr.Blocks):
  """A page where a call that fails is a message for its visitor, and a line in the log: Gradio prints a traceback."""

  log_fn: Callable[[Exception], None]

  async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    try:
      if _names_an_address(inputs):
        raise gr.Error("Files must be uploaded; addresses are not fetched.")
      return await super().process_api(block_fn, inputs, *args, **kwargs)
    except gr.Error as error:
      error.print_exception = False
      raise
    except Exception as error:  # of a call that no browser makes, or of a bug
      self.log_fn(error)
      text = f"The request cannot be answered ({type(error).__name__})."
      raise gr.Error(text, print_exception=False) from None


def _names_an_address(value):
  """Return whether a file in the inputs of a call is an address, which Gradio would fetch from the server."""
  if isinstance(value, dict):
    path = value.get("path")
    return isinstance(path, str) and "://" in path or _names_an_address([*value.values()])
  return isinstance(value, list) and any(map(_names_an_address, value))


def build_page(title: str, models: Sequence[DemoModel], log_fn: Callable[[Exception], None]) -> gr.Blocks:
  """Build the page of one model, or of several with a tab for each, to be launched with `**LOOK`.

  Each tab starts with an answer, so that all functions are traced before the first request.

  Args:
    title: of the page.
    models: what it shows.
    log_fn: is called with each exception that is not the visitor's `InputError`.
  """
  with _Page(title=title, analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)) as page:
    page.log_fn = log_fn
    gr.Markdown(f"# {title}")
    for model in models:
      with gr.Tab(model.name) if len(models) > 1 else contextlib.nullcontext():
        _tabs_of(model, f"{model.name}_" if len(models) > 1 else "")
  # Requests by the REST routes would bypass the queue and reach the model in parallel.
  return page.queue(max_size=_LONGEST_QUEUE, api_open=False)


def _tabs_of(model, prefix):
  """Draw the tabs of a model; `prefix` begins the names of its functions in the API."""
  gr.Markdown(model.about)
  files = _write_examples(model.examples, model.answers)
  with gr.Tab("Samples"):
    _samples_tab(model.answers, prefix)
  with gr.Tab("Interpolation"):
    _interpolation_tab(model.answers, prefix, files)
  with gr.Tab("Reconstruction and score"):
    _score_tab(model.answers, prefix, files)


def _samples_tab(answers, prefix):
  most = answers.engine.most_samples
  start = min(64, most), 1.0, 0
  with gr.Row():
    with gr.Column(scale=2):
      n = gr.Slider(1, most, start[0], step=1, label="Number")
      temperature = gr.Slider(
        0,
        limits.HOTTEST,
        start[1],
        step=0.05,
        label="Temperature",
        info="Below 1 the samples are more usual, and less varied.",
      )
      seed = gr.Number(start[2], step=1, label="Seed", info="The same seed gives the same samples.")
      classes = answers.engine.config.num_classes
      label = (
        [
          gr.Dropdown(
            [("all, one after the other", None), *((str(i), i) for i in range(classes))], value=None, label="Class"
          )
        ]
        if classes
        else []
      )
      button = gr.Button("Sample", variant="primary")
    with gr.Column(scale=5):
      picture = _picture("Samples", _own(answers, "samples", answers.samples(*start)))
  _on(
    [button.click, n.release, temperature.release, seed.submit, *(box.change for box in label)],
    answers.samples,
    [n, temperature, seed, *label],
    picture,
    f"{prefix}sample",
  )


def _interpolation_tab(answers, prefix, files):
  (_, first_file), (_, last_file), *_ = files
  start = first_file, last_file, 16
  frames_there, animation_there, ends_there = answers.interpolation(*start)
  with gr.Row():
    with gr.Column(scale=2):
      first = _upload("From", start[0])
      last = _upload("To", start[1])
      frames = gr.Slider(2, limits.MOST_FRAMES, start[2], step=1, label="Frames")
      button = gr.Button("Interpolate", variant="primary")
      pairs = list(zip(files[::2], files[1::2]))
      examples = gr.Examples(
        [[a, b] for (_, a), (_, b) in pairs], [first, last], example_labels=[f"{a} to {b}" for (a, _), (b, _) in pairs]
      )
    with gr.Column(scale=3):
      grid = _picture("Frames, in rows", _own(answers, "frames", frames_there))
      ends = gr.Markdown(ends_there, elem_classes="text")
    with gr.Column(scale=2):
      animation = _picture("There and back", _own(answers, "animation", animation_there))
  _on(
    [button.click, frames.release, first.upload, last.upload],
    answers.interpolation,
    [first, last, frames],
    [grid, animation, ends],
    f"{prefix}interpolate",
    examples,
  )


def _score_tab(answers, prefix, files):
  _, start = files[0]
  *pictures_there, text_there = answers.score(start)
  with gr.Row():
    with gr.Column(scale=2):
      upload = _upload("Image", start)
      button = gr.Button("Score", variant="primary")
      examples = gr.Examples([[path] for _, path in files], [upload], example_labels=[label for label, _ in files])
    with gr.Column(scale=5):
      with gr.Row():
        pictures = [
          _picture(label, _own(answers, label, there))
          for label, there in zip(
            ("As the model sees it", "Encoded and decoded", "Difference"), pictures_there, strict=True
          )
        ]
      text = gr.Markdown(text_there, elem_classes="text")
  _on([button.click, upload.upload], answers.score, [upload], [*pictures, text], f"{prefix}score", examples)


def _picture(label, value):
  return gr.Image(
    value,
    label=label,
    type="filepath",
    format="png",
    interactive=False,
    elem_classes="picture",
    buttons=["download", "fullscreen"],
  )


def _upload(label, value):
  # Not gr.Image, which decodes the file before we can report what is wrong with it.
  return gr.File(value, label=label, height=110)


def _on(triggers, function, inputs, outputs, api_name, examples=None):
  """Call the function on each of the triggers, and after a click on an example."""
  shared = dict(fn=_guarded(function), inputs=inputs, outputs=outputs, concurrency_id="model", concurrency_limit=1)
  gr.on(triggers, api_name=api_name, trigger_mode="always_last", **shared)
  if examples:
    examples.load_input_event.then(api_visibility="private", **shared)


def _guarded(function):
  """Return the function with its `InputError`s shown as messages on the page."""

  @functools.wraps(function)
  def guarded(*args):
    try:
      return function(*args)
    except InputError as error:
      text = html.escape(str(error), quote=False)  # it can hold file names
      raise gr.Error(f"{text[:1].upper()}{text[1:]}.", print_exception=False) from None

  return guarded


def _write_examples(examples, answers):
  """Write a file for each example; return pairs of label and path."""
  files = []
  for label, image in examples.items():
    pixels = to_shades(image, answers.engine.config.levels)
    path = answers.folder / f"{label.replace(' ', '_')}.png"
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
    gr.set_static_paths(path)
    files.append((label, str(path)))
  return files


def _own(answers, label, picture):
  """Write a first answer, an image or a file that the next replaces, to a file of the page; return its path.

  Gradio serves such files as they are. It would copy others to where uploads and answers to visitors are, which are
  removed after some time.
  """
  path = answers.folder / f"first_{label.replace(' ', '_').lower()}.png"
  if isinstance(picture, Image.Image):
    picture.save(path)
  else:
    shutil.copyfile(picture, path)
  gr.set_static_paths(path)
  return str(path)

"""Lay out the Gradio page: a summary of the model, and tabs for samples, interpolation, an image, and the card.

The model handles one request at a time; the others wait in a queue, and visitors see their place in it.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import html
import re
import shutil
from typing import Any

import gradio as gr
import numpy as np
import pandas
from PIL import Image

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo import answers as limits
from flowpp_tf.demo.charts import curve, thumbnail
from flowpp_tf.demo.style import CSS, FONTS

LOOK = {  # arguments of `gr.Blocks.launch`
  "theme": gr.themes.Default(primary_hue="slate", font=FONTS, font_mono=("ui-monospace", "monospace")),
  "css": CSS,
  "footer_links": ["api"],
}
_SEEN = ("As the model sees it", "Encoded and decoded", "Difference")
_LONGEST_QUEUE = 32
_KEPT_SECONDS = 3600
_MOVE = """(at) => {
  const film = document.querySelector("#%s .film");
  if (film) film.style.setProperty("--frame", Math.round(at * (film.dataset.frames - 1)));
}"""


@dataclasses.dataclass(frozen=True, eq=False)
class DemoModel:
  """A model on the page.

  Attributes:
    name: name of the model's tab and prefix of its API, if the page has several models.
    answers: answers of the model.
    summary: Markdown above its tabs.
    provenance: Markdown of its card.
    examples: at least two uint8 images `[H, W, C]` by label; written to the folder of `answers`.
    rows: rows of the run's metrics.
  """

  name: str
  answers: limits.DemoHandlers
  summary: str
  provenance: str
  examples: dict[str, np.ndarray]
  rows: Sequence[dict] = ()


class Page(gr.Blocks):
  """A page that fetches no addresses, and logs a line for a call that fails where Gradio prints a traceback."""

  log_fn: Callable[[Exception], None]

  async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    if _names_an_address(inputs):
      raise gr.Error("Files must be uploaded; addresses are not fetched.", print_exception=False)
    try:
      return await super().process_api(block_fn, inputs, *args, **kwargs)
    except gr.Error as error:
      error.print_exception = False
      raise
    except Exception as error:  # a bug, or a call that no browser makes
      self.log_fn(error)
      raise gr.Error(f"The request cannot be answered ({type(error).__name__}).", print_exception=False) from None


def _names_an_address(value):
  """Return whether a file in the inputs of a call is an address, which Gradio would fetch from the server."""
  if isinstance(value, dict):
    path = value.get("path")
    return isinstance(path, str) and "://" in path or _names_an_address([*value.values()])
  return isinstance(value, list) and any(map(_names_an_address, value))


def _with_message(function):
  """Wrap a function so that the page shows its `InputError`s as messages, which stay until they are closed."""

  @functools.wraps(function)
  def answer(*args):
    try:
      return function(*args)
    except InputError as error:
      text = html.escape(str(error), quote=False)  # it can hold file names
      raise gr.Error(f"{text[:1].upper()}{text[1:]}.", duration=None, print_exception=False) from None

  return answer


def _call(function, inputs, outputs, status):
  """Return the arguments of an event that calls a function of the model, one at a time, with its progress in `status`.

  Without `status`, Gradio would show an error in place of all outputs.
  """
  return dict(
    fn=_with_message(function),
    inputs=[*inputs],
    outputs=[*outputs],
    concurrency_id="model",
    concurrency_limit=1,
    show_progress_on=status,
  )


def _on(triggers, api_name, call):
  """Connect a call to all triggers and to a name of the API; return the event."""
  return gr.on([*triggers], api_name=api_name, trigger_mode="always_last", **call)


def _after(event, call):
  """Connect a call to the success of an event; return the event of the call."""
  return event.success(api_visibility="private", **call)


def build_page(title: str, models: Sequence[DemoModel], log_fn: Callable[[Exception], None]) -> gr.Blocks:
  """Build the page of one model, or of several models with a tab each; launch it with `**LOOK`.

  Each tab starts with an answer, so that its functions except `compress` are traced before the first request.

  Args:
    title: title of the page.
    models: models on the page.
    log_fn: function of each exception that is not an `InputError`.
  """
  with Page(title=title, analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)) as page:
    page.log_fn = log_fn
    gr.Markdown(f"# {title}")
    if len(models) == 1:
      _ModelTabs(models[0], "").draw()
    else:
      for model in models:
        with gr.Tab(model.name):
          _ModelTabs(model, f"{model.name}_").draw()
  # Requests by the REST routes would bypass the queue and reach the model in parallel.
  return page.queue(max_size=_LONGEST_QUEUE, api_open=False)


class _ModelTabs:
  """The tabs of a model; the names of its functions in the API start with `prefix`."""

  def __init__(self, model, prefix):
    self._model = model
    self._prefix = prefix
    self._answers = model.answers
    self._files = _write_examples(model.examples, model.answers)

  def draw(self):
    gr.Markdown(self._model.summary, elem_classes="summary")
    with gr.Tab("Samples"):
      self._samples()
    with gr.Tab("Interpolation"):
      self._interpolation()
    with gr.Tab("Your image"):
      self._image()
    with gr.Tab("Card"):
      self._card()

  def _samples(self):
    answers = self._answers
    most = answers.engine.most_samples
    start = min(64, most), 1.0, 0
    with gr.Row():
      with gr.Column(scale=2):
        seed = gr.Number(
          start[2], step=1, label="Seed", info="Kept until you change it: the same seed gives the same samples."
        )
        new_seed = gr.Button("New seed", variant="primary")
        class_controls = self._class_controls()
        status = _status()
      with gr.Column(scale=5):
        with gr.Row(elem_classes="wall"):
          wall = [
            _picture(f"Temperature {temperature}", _own(answers, f"wall {temperature}", picture))
            for temperature, picture in zip(limits.WALL, answers.wall(start[2]), strict=True)
          ]
        gr.Markdown("Below temperature 1 samples are more usual, and less varied. All three have the same latents.")
        with gr.Accordion("Any number, at any temperature", open=False):
          n = gr.Slider(1, most, start[0], step=1, label="Number")
          temperature = gr.Slider(0, limits.HOTTEST, start[1], step=0.05, label="Temperature")
          button = gr.Button("Sample")
          picture = _picture("Samples", _own(answers, "samples", answers.samples(*start)))
    if answers.engine.can_guide:
      answers.samples(1, 1, 0, None, 1.0)  # traces the function now
    draw_wall = _call(answers.wall, [seed, *class_controls], wall, status)
    draw_samples = _call(answers.samples, [n, temperature, seed, *class_controls], [picture], status)
    changed = [control.release if isinstance(control, gr.Slider) else control.change for control in class_controls]
    _on([seed.submit, *changed], f"{self._prefix}wall", draw_wall)
    drawn = new_seed.click(
      None, None, seed, js="() => Math.floor(Math.random() * 2 ** 32)", api_visibility="private", queue=False
    )
    _after(drawn, draw_wall)
    _on([button.click, n.release, temperature.release], f"{self._prefix}sample", draw_samples)

  def _class_controls(self):
    """Add controls for the class and the guidance of a model with classes; return them."""
    engine = self._answers.engine
    if not engine.config.num_classes:
      return []
    names = [(limits.class_name(engine, label), label) for label in range(engine.config.num_classes)]
    controls = [
      gr.Dropdown([("all, one after the other", limits.ALL_CLASSES), *names], value=limits.ALL_CLASSES, label="Class")
    ]
    if engine.can_guide:
      info = "How far samples are pushed from those without a class."
      controls.append(gr.Slider(0, limits.MOST_GUIDANCE, 0, step=0.25, label="Guidance", info=info))
    return controls

  def _interpolation(self):
    answers = self._answers
    first_file, last_file = [path for _, path, _ in self._files[:2]]
    first_grid, first_animation, first_film, first_ends = answers.interpolation(first_file, last_file, 16)
    film_id = f"{self._prefix}film"
    with gr.Row():
      with gr.Column(scale=2):
        first = _upload("From", first_file)
        last = _upload("To", last_file)
        frames = gr.Slider(2, limits.MOST_FRAMES, 16, step=1, label="Frames")
        button = gr.Button("Interpolate", variant="primary")
        status = _status()
        pictures = []
        paths = []
        for i in range(0, len(self._files) - 1, 2):
          label, path, _ = self._files[i]
          other_label, other_path, _ = self._files[i + 1]
          pictures.append((self._side_by_side(i // 2, label, other_label), f"{label} to {other_label}"))
          paths.append((path, other_path))
        chosen = _examples(pictures, paths, [first, last])
      with gr.Column(scale=2):
        film = gr.HTML(first_film, elem_id=film_id, elem_classes="answer")
        at = gr.Slider(0, 1, 0, step=0.01, label="From the one to the other")
      with gr.Column(scale=3):
        grid = _picture("Frames, in rows", _own(answers, "frames", first_grid))
        ends = gr.Markdown(first_ends, elem_classes="text")
        with gr.Accordion("There and back, as an animated PNG", open=False):
          animation = _picture("There and back", _own(answers, "animation", first_animation))
    walk = _call(answers.interpolation, [first, last, frames], [grid, animation, film, ends], status)
    changed = [button.click, frames.release, first.upload, last.upload]
    for event in (_on(changed, f"{self._prefix}interpolate", walk), _after(chosen, walk)):
      event.success(None, None, at, js="() => 0", api_visibility="private", queue=False)
    at.input(None, at, None, js=_MOVE % film_id, api_visibility="private", queue=False)

  def _image(self):
    answers = self._answers
    _, start, _ = self._files[0]
    *first_pictures, first_text = answers.score(start)
    with gr.Row():
      with gr.Column(scale=2):
        upload = _upload("Image", start)
        with gr.Row():
          button = gr.Button("Score", variant="primary")
          pack = gr.Button("Compress", visible=answers.engine.can_compress)
        status = _status()
        sizes = gr.HTML(elem_classes="answer")
        archive = gr.File(label="Archive", interactive=False, visible=False, height=110)
        thumbnails = [(picture, label) for label, _, picture in self._files]
        chosen = _examples(thumbnails, [(path,) for _, path, _ in self._files], [upload])
      with gr.Column(scale=5):
        with gr.Row(elem_classes="wall"):
          pictures = [
            _picture(label, _own(answers, label, picture)) for label, picture in zip(_SEEN, first_pictures, strict=True)
          ]
        text = gr.Markdown(first_text, elem_classes="text")
        explained = gr.HTML(answers.explain(start), elem_classes="answer parts")
    score = _call(answers.score, [upload], [*pictures, text], status)
    explain = _call(answers.explain, [upload], [explained], status)
    for event in (_on([button.click, upload.upload], f"{self._prefix}score", score), _after(chosen, score)):
      _after(event, explain)

    def compressed(path):
      file, text = answers.compress(path)
      return gr.update(value=file, visible=True), text

    _on([pack.click], f"{self._prefix}compress", _call(compressed, [upload], [archive, sizes], status))

    def clear():
      return gr.update(value=None, visible=False), ""

    # Another image needs another archive.
    upload.change(clear, None, [archive, sizes], api_visibility="private", queue=False, show_progress="hidden")

  def _side_by_side(self, number, *labels):
    """Write a picture of two examples; return its path."""
    both = np.concatenate([self._model.examples[label] for label in labels], axis=1)
    return _own(self._answers, f"pair {number}", thumbnail(both, self._answers.engine.config.levels))

  def _card(self):
    with gr.Row():
      with gr.Column(scale=3):
        gr.Markdown(self._model.provenance, elem_classes="text card")
      with gr.Column(scale=2):
        text, points = curve(self._model.rows)
        gr.Markdown(text, elem_classes="text")
        if points:
          bits = [value for _, value, _ in points]
          # As in `plot_curves`, limit the axis, so that the first rows do not flatten the rest.
          y_lim = [min(bits) - 0.02, float(np.quantile(bits, 0.9)) + 0.2]
          table = pandas.DataFrame(points, columns=["step", "bits/dim", "curve"])
          gr.LinePlot(table, "step", "bits/dim", color="curve", y_lim=y_lim)


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


def _status():
  return gr.HTML("", elem_classes="status", min_height=24)


def _examples(pictures, values, inputs):
  """Draw thumbnails with names; return the event of a click, after which the inputs hold the values of its example."""
  gallery = gr.Gallery(
    pictures,
    label="Examples",
    columns=8,
    height="auto",
    object_fit="contain",
    allow_preview=False,
    interactive=False,
    elem_classes="examples",
    buttons=[],
  )

  def chosen(event: gr.SelectData):
    value = values[event.index]
    return value if len(inputs) > 1 else value[0]

  return gallery.select(chosen, None, inputs, api_visibility="private", show_progress="hidden", queue=False)


def _write_examples(examples, answers):
  """Write a file and a picture of each example; return its label and the paths of both."""
  files = []
  for label, image in examples.items():
    name = "_".join(re.findall(r"[^\W_]+", label))[-40:]  # the number is at the end; a class may have a long name
    file = picture = answers.folder / f"{name}.png"
    thumbnail(image, answers.engine.config.levels).save(picture)
    if image.dtype == np.uint16:  # a picture has 8 bits
      file = picture.with_suffix(".npy")
      np.save(file, image)
    gr.set_static_paths([file, picture])
    files.append((label, str(file), str(picture)))
  return files


def _own(answers, label, picture):
  """Write a first answer, an image or a file that the next answer replaces, to a static file; return its path.

  Gradio would copy other files into the folder of uploads and answers, which it clears after some time.
  """
  path = answers.folder / f"first_{label.replace(' ', '_').lower()}.png"
  if isinstance(picture, Image.Image):
    picture.save(path)
  else:
    shutil.copyfile(picture, path)
  gr.set_static_paths(path)
  return str(path)

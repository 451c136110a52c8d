"""How the page calls functions: one at a time, and with errors beside what failed.

Gradio shows an error in place of all outputs of a call. Here the outputs stay, and the error is a line in the call's
status, which also shows its progress.
"""

import collections
from collections.abc import Callable, Sequence
import functools
import html
from typing import Any

import gradio as gr

from flowpp_tf.core.errors import InputError

_MOST_FAILURES = 256  # sessions whose last error is kept


class Page(gr.Blocks):
  """A page where a call that fails is a message for its visitor, and a line in the log: Gradio prints a traceback."""

  log_fn: Callable[[Exception], None]

  def __init__(self, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self._failures: collections.OrderedDict[str | None, str] = collections.OrderedDict()

  async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    try:
      if _names_an_address(inputs):
        raise gr.Error("Files must be uploaded; addresses are not fetched.")
      return await super().process_api(block_fn, inputs, *args, **kwargs)
    except gr.Error as error:
      error.print_exception = False
      self._keep(kwargs.get("request"), error)
      raise
    except Exception as exception:  # of a call that no browser makes, or of a bug
      self.log_fn(exception)
      failure = gr.Error(f"The request cannot be answered ({type(exception).__name__}).", print_exception=False)
      self._keep(kwargs.get("request"), failure)
      raise failure from None

  def last_failure(self, request: gr.Request) -> str:
    """Return the last error of a visitor as HTML, once."""
    text = self._failures.pop(getattr(request, "session_hash", None), "The request cannot be answered.")
    return f"<p class='failed' role='alert'>{text}</p>"

  def _keep(self, request, error):
    # `InputError`s are escaped already; of Gradio's own some hold what was sent.
    self._failures[getattr(request, "session_hash", None)] = html.escape(html.unescape(str(error.message)), quote=False)
    while len(self._failures) > _MOST_FAILURES:
      self._failures.popitem(last=False)


def _names_an_address(value):
  """Return whether a file in the inputs of a call is an address, which Gradio would fetch from the server."""
  if isinstance(value, dict):
    path = value.get("path")
    return isinstance(path, str) and "://" in path or _names_an_address([*value.values()])
  return isinstance(value, list) and any(map(_names_an_address, value))


class Calls:
  """Connects a function of the model with what calls it.

  Args:
    page: the page.
    function: of the inputs, which raises `InputError`s.
    inputs: components.
    outputs: components.
    status: an HTML component for progress and errors.
  """

  def __init__(
    self, page: Page, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], status: gr.HTML
  ) -> None:
    self._page, self._status = page, status
    self._shared = dict(
      fn=_guarded(function),
      inputs=[*inputs],
      outputs=[*outputs],
      concurrency_id="model",
      concurrency_limit=1,
      show_progress_on=status,
    )

  def on(self, triggers: Sequence[Any], api_name: str) -> Any:
    """Call the function on each of the triggers, and under a name of the API."""
    return self._reported(gr.on([*triggers], api_name=api_name, trigger_mode="always_last", **self._shared))

  def after(self, event: Any) -> Any:
    """Call the function after an event that has not failed."""
    return self._reported(event.success(api_visibility="private", **self._shared))

  def _reported(self, event):
    quiet = dict(outputs=self._status, api_visibility="private", queue=False, show_progress="hidden")
    event.failure(self._page.last_failure, None, **quiet)
    event.success(None, None, js="() => ''", **quiet)
    return event


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

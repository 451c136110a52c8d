"""Answers that need no page: a line of text, and what the log says of a request that failed."""

import math
from typing import Any

from flowpp_tf.core.errors import printable

_LONGEST = 300  # characters of an error in the log


def refusal(status: int, text: str, retry_after: float | None = None) -> Any:
  """Return an ASGI application that answers with a line of text and closes the connection.

  Args:
    status: of HTTP.
    text: the line.
    retry_after: seconds after which the same request can succeed.
  """
  from starlette.responses import PlainTextResponse  # comes with gradio

  wait = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
  return PlainTextResponse(text, status, {"Connection": "close", **wait})  # what is left of the body is not read


def one_line(error: BaseException) -> str:
  """Return an error as one short line without control characters: it can hold what a visitor sent.

  Examples:
    >>> from flowpp_tf.demo.responses import one_line
    >>> print(one_line(ValueError("no \\x1b[2J\\nimage")))
    ValueError: no \\x1b[2J image
  """
  text = " ".join(f"{type(error).__name__}: {error}".split())
  text = printable(text[:_LONGEST])
  return text.removesuffix(":") + ("..." if len(text) >= _LONGEST else "")

"""The bodies of requests: how many bytes may come, in how much time, and the room for them on the disk.

All three are counted while the bytes arrive, so that a request never gets more than its share.
"""

import asyncio
from collections.abc import Callable
import contextlib
import pathlib
import time
from typing import Any, NoReturn

from flowpp_tf.demo.responses import refusal
from flowpp_tf.io.budget import size_text

UPLOAD = 64 << 20  # bytes of all files of a request
QUOTA = 512 << 20  # bytes of uploads and answers that are kept; the oldest go first
_FORM = 64 << 10  # bytes around the files of an upload, and of any other body
_MOST_FILES = 4096  # that are kept: the folder is read whole at each request
_UPLOADS_AT_A_TIME = 4
_STEP = 4 << 20  # bytes of an upload for which room is made at a time


class Uploads:
  """Passes requests with a body on to the page; ends those that bring too much, or take too long.

  Args:
    folder: where Gradio keeps uploads and answers to visitors, and nothing else.
    quota: bytes that may be kept there, with what is arriving.
    most: bytes of the files of one request.
    stalled: seconds without a byte after which a body is ended.
    slow: seconds after which a body that has not come whole is ended.
  """

  def __init__(
    self, folder: pathlib.Path, quota: int = QUOTA, most: int = UPLOAD, stalled: float = 10, slow: float = 120
  ) -> None:
    self._folder, self._quota, self._most = folder, quota, most
    self.stalled, self.slow = stalled, slow
    self._arriving: set[_Body] = set()  # uploads

  async def serve(self, app: Any, scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Call an ASGI application with the body of a request, or refuse it."""
    upload = scope["path"].endswith("/upload")
    if upload and len(self._arriving) >= _UPLOADS_AT_A_TIME:
      await refusal(503, "too many uploads at a time; try again", retry_after=1)(scope, receive, send)
      return
    body = _Body(self, receive, _content_length(scope), self._most + _FORM if upload else _FORM, upload)
    self._arriving |= {body} if upload else set()
    started = False

    async def answer(message):
      nonlocal started
      if body.refused is None or started:
        started = True
        await send(message)

    try:
      with contextlib.suppress(_Ended):
        body.check_length()
        await app(scope, body.receive, answer)
    except Exception:
      if body.refused is None:
        raise
    finally:
      self._arriving.discard(body)
    if body.refused is not None and not started:
      await refusal(*body.refused)(scope, receive, send)

  def make_room(self, amount: int = 0) -> bool:
    """Remove the oldest files until `amount` more bytes are within the quota; return whether they are."""
    coming = amount + sum(max(body.granted - body.received, 0) for body in self._arriving)
    since = min((body.started for body in self._arriving), default=None)
    return remove_oldest(self._folder, self._quota - coming, since) + coming <= self._quota


class _Ended(Exception):
  """Ends a request before the page has seen it."""


class _Body:
  """A body that arrives.

  Attributes:
    received: bytes so far.
    granted: bytes for which there is room in the quota.
    started: when the request came, as the times of files.
    refused: status and line of the refusal that ended it, or None.
  """

  def __init__(
    self, uploads: Uploads, receive: Callable[..., Any], length: int | None, most: int, upload: bool
  ) -> None:
    self._uploads, self._receive, self._length, self._most, self._upload = uploads, receive, length, most, upload
    self._deadline = asyncio.get_running_loop().time() + uploads.slow
    self._complete = False
    self.received = self.granted = 0
    self.started = time.time_ns()
    self.refused: tuple[int, str] | None = None

  def check_length(self) -> None:
    """Refuse what says by itself that it is too long, before a byte is read."""
    if self._length is not None and self._length > self._most:
      self.refused = self._too_long()
      raise _Ended

  async def receive(self) -> Any:
    """Return the next message, as `receive` of ASGI does, if it comes in time and fits."""
    if self.refused is not None:
      return {"type": "http.disconnect"}
    if self._complete:
      return await self._receive()
    left = self._deadline - asyncio.get_running_loop().time()
    try:
      message = await asyncio.wait_for(self._receive(), min(self._uploads.stalled, left))
    except asyncio.TimeoutError:
      self._end(408, "the upload took too long")
    if message["type"] == "http.disconnect":
      self._end(400, "the upload is incomplete")
    self.received += len(message.get("body", b""))
    if self.received > self._most:
      self._end(*self._too_long())
    while self._upload and self.granted < self.received:
      expected = self._most if self._length is None else self._length
      step = max(self.received - self.granted, min(_STEP, expected - self.granted))
      if not self._uploads.make_room(step):
        self._end(507, "there is no room for the upload; try again later")
      self.granted += step
    self._complete = not message.get("more_body", False)
    return message

  def _too_long(self):
    return 413, f"a request may bring at most {size_text(self._most - _FORM if self._upload else self._most)}"

  def _end(self, status, text) -> NoReturn:
    """End the body as a bad form: then Gradio removes the files that it has begun."""
    from starlette.formparsers import MultiPartException  # comes with gradio

    self.refused = status, text
    raise MultiPartException(text)


def remove_oldest(folder: pathlib.Path, quota: int, since: int | None = None) -> int:
  """Remove the oldest files of a folder, and of its folders, until the others have at most `quota` bytes.

  Args:
    folder: where Gradio keeps files, each in a folder of its own; directly in it are parts of uploads.
    quota: bytes.
    since: time in ns when the oldest upload that is arriving began; earlier parts, or all if None, are removed.

  Returns:
    The number of bytes of what is left.
  """
  files, parts = [], 0
  now = time.time_ns()
  for path in folder.rglob("*"):
    with contextlib.suppress(OSError):  # removed meanwhile
      status = path.stat()
      if path.is_dir():
        if now - status.st_mtime_ns > 60e9:
          path.rmdir()  # fails unless it is empty
      elif path.parent != folder:
        files.append((status.st_mtime_ns, status.st_size, path))
      elif since is None or status.st_mtime_ns < since - 1e9:  # the times of files are some ms late
        path.unlink()
      else:
        parts += status.st_size
  total = parts + sum(size for _, size, _ in files)
  for i, (_, size, path) in enumerate(sorted(files)):
    if total <= quota and len(files) - i <= _MOST_FILES:
      break
    with contextlib.suppress(OSError):
      path.unlink()
    total -= size
  return total


def _content_length(scope):
  """Return the length that a request states, or None."""
  for name, value in scope["headers"]:
    if name == b"content-length" and value.isdigit():
      return int(value)
  return None

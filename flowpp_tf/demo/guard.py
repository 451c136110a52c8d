"""Refuse requests unless they name a trusted host, come from the page's own origin, and are small enough.

A page of another site can send requests to a server on the visitor's machine: by a form, or under a host name that
resolves to 127.0.0.1 (DNS rebinding). Starlette's `TrustedHostMiddleware` compares `Host` with `trusted_hosts`. Gradio
lets no other site read the answers of a page at localhost, and `Guard` refuses such requests at any address. A proxy
can limit connections, rates and guesses of passwords: docs/serving.md.
"""

from collections.abc import Callable, Iterable
import pathlib
import re
import shutil
import socket
from typing import Any

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse

UPLOAD = 64 << 20  # most bytes of all files in a request
_FORM = 64 << 10  # most bytes around the files of an upload, and of any other body
_FREE = 256 << 20  # bytes that uploads leave free on the disk
# Gradio would fetch the content of an address, and write a file for each deep link, which the page does not offer.
_NOT_SERVED = re.compile(r"/(file|proxy)[=/]/*https?:|/deep_link/*$", re.IGNORECASE)


class Guard:
  """ASGI middleware that refuses requests from other sites, for addresses, and with too many bytes.

  Args:
    app: the application.
    uploads: folder to which the application writes uploads.
    log_fn: function of an exception of the application, for which the server would print a traceback.
  """

  def __init__(self, app: Any, uploads: pathlib.Path, log_fn: Callable[[Exception], None]) -> None:
    self._app = app
    self._uploads = uploads
    self._log_fn = log_fn

  async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
      return
    headers = Headers(scope=scope)
    is_upload = scope["path"].endswith("/upload")
    host = headers.get("host", "").lower()
    origin = headers.get("origin")
    app = self._app
    if origin is not None and origin.lower().partition("://")[2] != host:
      app = PlainTextResponse("requests from other sites are refused", 403)
    elif _NOT_SERVED.search(scope["path"]):
      app = PlainTextResponse("the page does not serve this", 403)
    elif is_upload and shutil.disk_usage(self._uploads.parent).free < _FREE:
      app = PlainTextResponse("there is no room for uploads; try again later", 507)
    started = False

    async def answer(message):
      nonlocal started
      started = True
      await send(message)

    most = UPLOAD + _FORM if is_upload else _FORM
    try:
      await app(scope, _limited(receive, most), answer)
    except Exception as error:
      self._log_fn(error)
      if not started and scope["type"] == "http":
        await PlainTextResponse("the page cannot answer this request", 500)(scope, receive, send)


def _limited(receive, most):
  """Return an ASGI `receive` that raises for a body of more than `most` bytes, or one that breaks off.

  The error is the one of a bad form: then Gradio answers 413 or 400, and removes the incomplete files.
  """
  received = 0
  complete = False

  async def limited():
    nonlocal received, complete
    message = await receive()
    received += len(message.get("body", b""))
    if received > most:
      raise MultiPartException(f"the request exceeds the maximum allowed size of {most:,} bytes")
    if message["type"] == "http.disconnect" and received and not complete:
      raise MultiPartException("the request is incomplete")
    complete = complete or not message.get("more_body", False)
    return message

  return limited


def trusted_hosts(host: str, more: Iterable[str] = ()) -> list[str]:
  """Return the names and addresses of a page that listens at `host`: this machine's, and `more`."""
  own_name = f"[{host}]" if ":" in host else host
  names = {"localhost", "127.0.0.1", "[::1]", own_name, *more}
  if host in ("0.0.0.0", "::"):
    names |= {socket.gethostname(), socket.getfqdn(), _own_address()}
  return sorted({name.lower() for name in names})  # not all versions of Starlette ignore their case


def _own_address():
  """Return the address of this machine in its network; no packet is sent."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
      probe.connect(("192.0.2.1", 9))  # an address for documentation
    except OSError:  # without a network
      return "127.0.0.1"
    return probe.getsockname()[0]

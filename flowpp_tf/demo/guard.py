"""What a request must be to reach the page: of a known host, of the page's own origin, with room for its files.

A page of another site can send requests to a server on the visitor's machine: by a form, or under a name of its own
that it lets point to 127.0.0.1 (DNS rebinding). Browsers say in `Origin` and `Host` where a request comes from.
"""

from collections.abc import Iterable
import contextlib
import ipaddress
import pathlib
import socket
from typing import Any
from urllib.parse import urlsplit

QUOTA = 512 << 20  # bytes of uploads and answers that are kept; the oldest go first
_UPLOADS_AT_A_TIME = 4


class Guard:
  """ASGI middleware that refuses other requests with a line of text.

  Args:
    app: the application.
    hosts: names under which the page may be asked for, from `allowed_hosts`.
    folder: where uploads and answers are kept.
    quota: bytes that may be kept there.
  """

  def __init__(self, app: Any, hosts: frozenset[str], folder: pathlib.Path, quota: int = QUOTA) -> None:
    self._app, self._hosts, self._folder, self._quota = app, hosts, folder, quota
    self._uploads = 0

  async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] not in ("http", "websocket"):
      await self._app(scope, receive, send)
      return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host, origin = headers.get("host", ""), headers.get("origin")
    if not self._is_known(host):
      app = _refusal(421, f"this page is not served as {host[:100]!r}; --allowed_hosts adds a name")
    elif origin is not None and urlsplit(origin).netloc.lower() != host.lower():
      app = _refusal(403, "requests from other sites are refused")
    else:
      app = self._post if scope.get("method") == "POST" else self._app
    await app(scope, receive, send)

  def _is_known(self, host):
    name = host.lower()
    with contextlib.suppress(ValueError):
      name = urlsplit(f"//{name}").hostname or ""
    if name in self._hosts:
      return True
    with contextlib.suppress(ValueError):
      ipaddress.ip_address(name)
      return True  # a number: no name that somebody lets point here
    return False

  async def _post(self, scope, receive, send):
    if self._uploads >= _UPLOADS_AT_A_TIME and scope["path"].endswith("/upload"):
      await _refusal(503, "too many uploads at a time; try again")(scope, receive, send)
      return
    remove_oldest(self._folder, self._quota)
    upload = scope["path"].endswith("/upload")
    self._uploads += upload
    try:
      await self._app(scope, receive, send)
    finally:
      self._uploads -= upload


def allowed_hosts(host: str, more: Iterable[str] = ()) -> frozenset[str]:
  """Return the names of a page that listens at `host`: those of this machine, and `more`; addresses need no name."""
  names = {"localhost", host, *more}
  if host not in ("127.0.0.1", "localhost", "::1"):
    names |= {socket.gethostname(), socket.getfqdn()}
  return frozenset(name.lower() for name in names)


def remove_oldest(folder: pathlib.Path, quota: int) -> None:
  """Remove the oldest files below a folder until the others have at most `quota` bytes."""
  files = []
  for path in folder.rglob("*"):
    with contextlib.suppress(OSError):  # removed meanwhile
      status = path.stat()
      if path.is_file():
        files.append((status.st_mtime_ns, status.st_size, path))
  total = sum(size for _, size, _ in files)
  for _, size, path in sorted(files):
    if total <= quota:
      return
    with contextlib.suppress(OSError):
      path.unlink()
    total -= size


def _refusal(status, text):
  from starlette.responses import PlainTextResponse  # comes with gradio

  return PlainTextResponse(text, status)

"""What a request must be to reach the page: of a known host, of the page's own origin, within its limits.

A page of another site can send requests to a server on the visitor's machine: by a form, or under a name of its own
that it lets point to 127.0.0.1 (DNS rebinding). Browsers say in `Origin` and `Host` where a request comes from.
"""

from collections.abc import Callable, Iterable
import contextlib
import errno
import ipaddress
import logging
import re
import resource
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from flowpp_tf.demo.logins import Logins
from flowpp_tf.demo.responses import refusal
from flowpp_tf.demo.uploads import Uploads

# Gradio would fetch what is at an address, and write a file at each deep link, which the page does not have.
_NOT_SERVED = re.compile(r"/(file|proxy)[=/]/*https?:|/deep_link/*$", re.IGNORECASE)
_UNLIMITED = 1000  # connections where the system does not limit files
_PATIENCE = 10  # seconds until the headers of a connection's first request must be there


class Guard:
  """ASGI middleware that refuses other requests with a line of text, and logs a line where one fails.

  Args:
    app: the application.
    hosts: names under which the page may be asked for, from `allowed_hosts`.
    uploads: takes the bodies of requests.
    logins: takes attempts to log in.
    log_fn: is called with each exception that the application raises.
  """

  def __init__(
    self, app: Any, hosts: frozenset[str], uploads: Uploads, logins: Logins, log_fn: Callable[[Exception], None]
  ) -> None:
    self._app, self._hosts, self._uploads, self._logins, self._log_fn = app, hosts, uploads, logins, log_fn

  async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] not in ("http", "websocket"):
      await self._app(scope, receive, send)
      return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host, origin = headers.get("host", ""), headers.get("origin")
    if not self._is_known(host):
      app = refusal(421, f"this page is not served as {host[:100]!r}; --allowed_hosts adds a name")
    elif origin is not None and urlsplit(origin).netloc.lower() != host.lower():
      app = refusal(403, "requests from other sites are refused")
    elif _NOT_SERVED.search(scope["path"]):
      app = refusal(403, "the page does not serve this")
    else:
      app = self._post if scope.get("method") == "POST" else self._app
    await self._answer(app, scope, receive, send)

  async def _answer(self, app, scope, receive, send):
    """Call an application; what it raises is a line in the log, where uvicorn would print a traceback."""
    started = False

    async def answer(message):
      nonlocal started
      started = True
      await send(message)

    try:
      await app(scope, receive, answer)
    except Exception as error:
      self._log_fn(error)
      if not started and scope["type"] == "http":
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = "the disk is full" if full else "the page cannot answer this request"
        await refusal(507 if full else 500, text)(scope, receive, send)

  def _is_known(self, host):
    name = _without_port(host)
    if name in self._hosts:
      return True
    with contextlib.suppress(ValueError):
      ipaddress.ip_address(name)
      return True  # a number: no name that somebody lets point here
    return False

  async def _post(self, scope, receive, send):
    self._uploads.make_room()  # for answers since the last request
    login = scope["path"].rstrip("/").endswith("/login")
    await self._uploads.serve(self._login if login else self._app, scope, receive, send)

  async def _login(self, scope, receive, send):
    await self._logins.serve(self._app, scope, receive, send)


def limit_connections(server: Any, most: int | None = None, patience: float = _PATIENCE) -> None:
  """Let a server of uvicorn close connections that are too many, and those whose first request does not come.

  Its own `limit_concurrency` counts requests, and it waits for ever for the end of headers: half-sent ones would take
  all files that the process may open.

  Args:
    server: `uvicorn.Server` that has started.
    most: number of connections; half of the files that the process may open if not given.
    patience: seconds.
  """
  files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
  limit = (_UNLIMITED if files == resource.RLIM_INFINITY else files // 2) if most is None else most

  class Limited(server.config.http_protocol_class):
    def connection_made(self, transport):
      super().connection_made(transport)
      if len(self.connections) > limit:
        transport.abort()
      else:
        self.loop.call_later(patience, self._close_if_silent)

    def _close_if_silent(self):
      if self.cycle is None and self in self.connections:  # no request yet, and not handed to a WebSocket
        self.transport.close()

  server.config.http_protocol_class = Limited


class OneLineASecond(logging.Filter):
  """Filter that lets a record of a logger pass each second, as one line: visitors cause warnings of the server."""

  _next = 0.0

  def filter(self, record: logging.LogRecord) -> bool:
    """Return whether to log a record, and leave one line of it."""
    now = time.monotonic()
    if now < self._next:
      return False
    self._next = now + 1
    record.msg, record.args, record.exc_info = " ".join(record.getMessage().split()), (), None
    return True


def allowed_hosts(host: str, more: Iterable[str] = ()) -> frozenset[str]:
  """Return the names of a page that listens at `host`: those of this machine, and `more`, whose ports do not count."""
  names = {"localhost", host, *map(_without_port, more)}
  if host not in ("127.0.0.1", "localhost", "::1"):
    names |= {socket.gethostname(), socket.getfqdn()}
  return frozenset(name.lower() for name in names if name)


def _without_port(host):
  """Return the name in a `Host`, in lower case."""
  with contextlib.suppress(ValueError):
    return urlsplit(f"//{host.lower()}").hostname or ""
  return host.lower()

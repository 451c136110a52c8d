"""Which requests reach the page of bin/demo, and what they may bring."""

import asyncio
import collections
import shutil

import pytest

from flowpp_tf.programs.demo import DemoOptions
from support.programs import refusal
from support.summary import need


@pytest.fixture
def guard():
  need("gradio")
  from flowpp_tf.demo import guard

  return guard


async def page(scope, receive, send):
  await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(app, method="GET", path="/", kind="http", **headers):
  """Return the status that a request gets."""
  sent = []

  async def send(message):
    sent.append(message)

  pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
  asyncio.run(app({"type": kind, "method": method, "path": path, "headers": pairs}, None, send))
  return sent[0].get("status")


@pytest.mark.parametrize(
  "host, headers, status",
  [
    ("127.0.0.1", {"host": "127.0.0.1:7860"}, 200),
    ("127.0.0.1", {"host": "localhost:7860"}, 200),
    ("::1", {"host": "[::1]:7860"}, 200),
    ("192.168.1.5", {"host": "192.168.1.5:7860"}, 200),
    ("127.0.0.1", {"host": "rebound.example:7860"}, 400),
    ("0.0.0.0", {"host": "rebound.example"}, 400),
    ("127.0.0.1", {}, 400),
    ("127.0.0.1", {"host": "[::"}, 400),
    ("127.0.0.1", {"host": "added.example"}, 200),
    ("127.0.0.1", {"host": "any.below.example:7860"}, 200),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:7860"}, 200),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://evil.example"}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "null"}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://["}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:9999"}, 403),
    ("192.168.1.5", {"host": "192.168.1.5:7860", "origin": "http://evil.example"}, 403),
  ],
)
def test_requests_of_other_sites_are_refused(guard, tmp_path, host, headers, status):
  from starlette.middleware.trustedhost import TrustedHostMiddleware

  hosts = guard.trusted_hosts(host, ["Added.example", "*.below.example"])
  app = TrustedHostMiddleware(guard.Guard(page, tmp_path, pytest.fail), hosts, www_redirect=False)
  for method in ("GET", "POST"):
    assert ask(app, method, **headers) == status


def test_a_page_for_all_addresses_is_asked_for_by_those_of_the_machine(guard):
  own = guard._own_address()
  assert own in guard.trusted_hosts("0.0.0.0") and own.count(".") == 3
  assert guard.trusted_hosts("127.0.0.1") == ["127.0.0.1", "[::1]", "localhost"]


@pytest.mark.parametrize(
  "path",
  [
    "/gradio_api/file=http://other.example/a",
    "/gradio_api/file/https://other.example/a",
    "/gradio_api/proxy=HTTPS://other.example",
    "/gradio_api/deep_link",  # writes a file
  ],
)
def test_what_gradio_would_fetch_or_write_for_a_visitor_is_refused(guard, tmp_path, path):
  app = guard.Guard(page, tmp_path, pytest.fail)
  assert ask(app, path=path, host="localhost") == 403
  assert ask(app, path="/gradio_api/file=/tmp/http.png", host="localhost") == 200


def test_uploads_leave_room_on_the_disk(guard, tmp_path, monkeypatch):
  app = guard.Guard(page, tmp_path / "uploads", pytest.fail)
  assert ask(app, "POST", "/gradio_api/upload", host="localhost") == 200
  usage = collections.namedtuple("usage", "free")
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=10_000_000))
  assert ask(app, "POST", "/gradio_api/upload", host="localhost") == 507
  assert ask(app, "POST", "/gradio_api/queue/join", host="localhost") == 200


def test_what_gradio_raises_for_a_request_is_a_line_and_not_the_servers_traceback(guard, tmp_path):
  async def broken(scope, receive, send):
    if scope["path"] == "/late":
      await page(scope, receive, send)
    raise KeyError(99999)

  logged = []
  app = guard.Guard(broken, tmp_path, logged.append)
  assert ask(app, "POST", "/gradio_api/queue/join") == 500
  assert ask(app, path="/late") == 200
  assert [str(error) for error in logged] == ["99999", "99999"]


# --- Bodies ---------------------------------------------------------------------------------------


def bring(guard, tmp_path, chunks, path="/gradio_api/upload"):
  """Send a body as chunks, of which None is a connection that ends; return what the page saw of it."""
  chunks, seen = [*chunks], []

  async def receive():
    body = chunks.pop(0)
    if body is None:
      return {"type": "http.disconnect"}
    return {"type": "http.request", "body": body, "more_body": bool(body)}

  async def reader(scope, receive, send):
    from starlette.formparsers import MultiPartException

    try:
      while (message := await receive())["type"] == "http.request":
        seen.append(len(message["body"]))
        if not message["more_body"]:
          seen.append("whole")
    except MultiPartException as error:  # upon which Gradio removes what it has written
      seen.append(error.message)

  scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"localhost")]}
  asyncio.run(guard.Guard(reader, tmp_path, pytest.fail)(scope, receive, None))
  return seen


def test_a_request_brings_at_most_its_limit(guard, tmp_path, monkeypatch):
  monkeypatch.setattr(guard, "UPLOAD", 100_000)
  whole, more = 2 * [bytes(50_000)], 4 * [bytes(50_000)]
  assert bring(guard, tmp_path, [*whole, b"", None]) == [50_000, 50_000, 0, "whole"]
  assert bring(guard, tmp_path, more)[3:] == ["the request exceeds the maximum allowed size of 165,536 bytes"]
  other = bring(guard, tmp_path, whole, "/gradio_api/queue/join")  # other bodies are small
  assert other == [50_000, "the request exceeds the maximum allowed size of 65,536 bytes"]


def test_a_request_that_breaks_off_is_a_bad_form(guard, tmp_path):
  assert bring(guard, tmp_path, [b"part", None]) == [4, "the request is incomplete"]


# --- Flags ----------------------------------------------------------------------------------------


@pytest.mark.needs("gradio")
@pytest.mark.parametrize("auth", ["name", ":", "name:", ":word", "@missing", "@empty", "@twice"])
def test_a_password_that_is_none_is_refused(tmp_path, auth):
  (tmp_path / "empty").touch()
  (tmp_path / "twice").write_text("ada:one\nbob:two\nada:three\n")
  message = "cannot be read" if auth == "@missing" else "--auth must be USER:PASSWORD"
  assert message in refusal("demo", "--preset=digits", f"--auth={auth}", cwd=tmp_path)


@pytest.mark.needs("gradio")
@pytest.mark.parametrize("name", ["https://b.example", "*", "a*", "b.example:80"])
def test_an_address_is_not_the_name_of_a_host(tmp_path, name):
  line = refusal("demo", "--preset=digits", f"--allowed_hosts=*.a.example,{name}", cwd=tmp_path)
  assert f"must be names such as page.example, got ('*.a.example', {name!r})" in line


def test_the_printed_address_has_brackets_around_ipv6():
  assert DemoOptions().address == "http://127.0.0.1:7860"
  assert DemoOptions(host="::1").address == "http://[::1]:7860"

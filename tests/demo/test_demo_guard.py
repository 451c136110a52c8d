"""Which requests reach the page of bin/demo, what its folder keeps, and who is asked for a password."""

import asyncio
import contextlib
import errno
import logging
import selectors
import socket
import threading
import types

import pytest

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo import guard
from flowpp_tf.demo.logins import Logins, password_check
from flowpp_tf.demo.metadata import checked_metadata
from flowpp_tf.demo.responses import one_line
from flowpp_tf.demo.uploads import Uploads
from flowpp_tf.programs import demo_flags
from support.programs import LIMIT, call, wait_for
from support.summary import need


def ask(app, method="GET", path="/", kind="http", **headers):
  """Return the status that a request gets."""
  sent = []

  async def send(message):
    sent.append(message)

  scope = {
    "type": kind,
    "method": method,
    "path": path,
    "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
  }
  asyncio.run(app(scope, None, send))
  return sent[0]["status"]


HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def serve():
  """Function that starts a server with limits, and returns its address."""
  need("gradio")
  import uvicorn

  started = []

  def start(**limits):
    server = uvicorn.Server(uvicorn.Config(page, port=0, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    started.append((server, thread))
    wait_for(lambda: server.started)
    guard.limit_connections(server, **limits)
    return server.servers[0].sockets[0].getsockname()

  yield start
  for server, thread in started:
    server.force_exit = server.should_exit = True
    thread.join()


def test_connections_beyond_the_limit_are_closed_at_once(serve):
  address = serve(most=4, patience=LIMIT)
  with contextlib.ExitStack() as stack:
    half = [stack.enter_context(socket.create_connection(address, LIMIT)) for _ in range(4)]
    for connection in half:
      connection.sendall(HALF)
    with socket.create_connection(address, LIMIT) as another:
      with contextlib.suppress(ConnectionError):
        assert another.recv(1) == b""
    half[0].sendall(b"\r\n")
    assert half[0].recv(12) == b"HTTP/1.1 200"


def test_a_connection_without_a_request_is_closed(serve):
  address = serve(most=2, patience=0.1)
  with socket.create_connection(address, LIMIT) as silent, socket.create_connection(address, LIMIT) as slow:
    with contextlib.suppress(ConnectionError):
      slow.sendall(HALF)
      assert slow.recv(1) == b""
    assert silent.recv(1) == b""


def test_a_logger_of_the_server_writes_a_line_a_second(caplog, monkeypatch):
  clock = [100.0]
  monkeypatch.setattr(guard, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
  logger = logging.Logger("server")
  logger.addHandler(caplog.handler)
  logger.addFilter(guard.OneLineASecond())
  for second in (100.0, 100.5, 100.9, 101.0):
    clock[0] = second
    try:
      raise OSError("no more files")
    except OSError:
      logger.exception("%s\nof %s", "out of files", second)
  assert caplog.messages == ["out of files of 100.0", "out of files of 101.0"]
  assert not any(record.exc_info for record in caplog.records)


async def page(scope, receive, send):
  await send({"type": "http.response.start", "status": 200, "headers": []})


def guarded(app, folder, host="127.0.0.1", more=(), logins=None, log_fn=None, **limits):
  return guard.Guard(app, guard.allowed_hosts(host, more), Uploads(folder, **limits), logins or Logins(), log_fn)


@pytest.mark.needs("gradio")
@pytest.mark.parametrize(
  "host, headers, status",
  [
    ("127.0.0.1", {"host": "127.0.0.1:7860"}, 200),
    ("127.0.0.1", {"host": "localhost:7860"}, 200),
    ("127.0.0.1", {"host": "[::1]:7860"}, 200),
    ("0.0.0.0", {"host": "192.168.1.5:7860"}, 200),
    ("127.0.0.1", {"host": "rebound.example:7860"}, 421),
    ("0.0.0.0", {"host": "rebound.example"}, 421),
    ("127.0.0.1", {}, 421),
    ("127.0.0.1", {"host": "[::"}, 421),
    ("127.0.0.1", {"host": "added.example"}, 200),
    ("127.0.0.1", {"host": "ported.example:7860"}, 200),
    ("127.0.0.1", {"host": "ported.example"}, 200),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:7860"}, 200),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://evil.example"}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "null"}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:9999"}, 403),
  ],
)
def test_requests_of_other_sites_are_refused(tmp_path, host, headers, status):
  app = guarded(page, tmp_path, host, ["Added.example", "Ported.example:7860", ":7860"])
  for method in ("GET", "POST"):
    assert ask(app, method, **headers) == status
  assert ask(app, kind="websocket", **headers) == status


def test_the_oldest_files_make_room(tmp_path):
  app = guarded(page, tmp_path, quota=250)
  for i in range(5):
    (tmp_path / f"{i}").mkdir()
    (tmp_path / f"{i}" / "upload").write_bytes(bytes(100))
  assert ask(app, "POST", "/gradio_api/upload", host="localhost") == 200
  assert sorted(path.parent.name for path in tmp_path.rglob("upload")) == ["3", "4"]


@pytest.mark.needs("gradio")
def test_uploads_at_a_time_are_few(tmp_path):
  statuses = []

  async def slow(scope, receive, send):
    await asyncio.sleep(0.05)
    await page(scope, receive, send)

  async def all_at_once():
    app = guarded(slow, tmp_path)

    async def send(message):
      statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/upload", "headers": [(b"host", b"localhost")]}
    await asyncio.gather(*(app(scope, None, send) for _ in range(9)))

  asyncio.run(all_at_once())
  assert statuses.count(200) == 4 and statuses.count(503) == 5


@pytest.mark.needs("gradio")
@pytest.mark.parametrize(
  "path",
  [
    "/gradio_api/file=http://other.example/a",
    "/gradio_api/file/https://other.example/a",
    "/gradio_api/proxy=HTTPS://other.example",
    "/gradio_api/deep_link",  # writes a file
  ],
)
def test_what_gradio_would_fetch_or_write_for_a_visitor_is_refused(tmp_path, path):
  assert ask(guarded(page, tmp_path), path=path, host="localhost") == 403
  assert ask(guarded(page, tmp_path), path="/gradio_api/file=/tmp/http.png", host="localhost") == 200


# --- Bodies ---------------------------------------------------------------------------------------


class VirtualTime(selectors.DefaultSelector):
  """What waits for a time has it at once, when nothing else can happen."""

  now = 0.0

  def select(self, timeout=None):
    ready = super().select(0)
    self.now += 0 if ready else timeout
    return ready


@pytest.fixture
def loop():
  """An event loop whose clock is that of `VirtualTime`."""
  selector = VirtualTime()
  loop = asyncio.SelectorEventLoop(selector)
  loop.time = lambda: selector.now
  yield loop
  loop.close()


class Folder:
  """The page as far as uploads go: writes each body to a part, as Gradio does, and keeps it if it comes whole."""

  def __init__(self, path):
    self.path, self.bodies = path, 0

  async def __call__(self, scope, receive, send):
    from starlette.formparsers import MultiPartException

    self.bodies += 1
    part = self.path / f"tmp{self.bodies}"
    try:
      with part.open("wb", buffering=0) as file:
        while (message := await receive())["type"] == "http.request":
          file.write(message.get("body", b""))
          if not message.get("more_body"):
            kept = self.path / f"{self.bodies}" / "upload"
            kept.parent.mkdir()
            part.rename(kept)
            break
    except MultiPartException:
      part.unlink()
    await page(scope, receive, send)

  def sizes(self):
    return sorted(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


async def send_body(app, chunks, path="/gradio_api/upload", length=None, sent=None):
  """Send a body as chunks, each after some seconds; return the status that its request gets."""
  chunks, answers = [*chunks], []

  async def receive():
    if not chunks:
      await asyncio.sleep(1e9)
    seconds, body = chunks.pop(0)
    await asyncio.sleep(seconds)
    if body is None:
      return {"type": "http.disconnect"}
    if sent is not None:
      sent.append(len(body))
    return {"type": "http.request", "body": body, "more_body": bool(body)}

  async def send(message):
    answers.append(message)

  headers = [(b"host", b"localhost"), *([(b"content-length", str(length).encode())] if length is not None else [])]
  await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
  return answers[0]["status"]


END = (0, b"")


@pytest.mark.needs("gradio")
def test_a_request_brings_at_most_its_limit_in_all_files_together(tmp_path, loop):
  folder = Folder(tmp_path)
  app = guarded(folder, tmp_path, most=100_000)
  sent, chunk = [], (0, bytes(50_000))
  run = lambda *chunks, **options: loop.run_until_complete(send_body(app, chunks, sent=sent, **options))
  assert run(chunk, chunk, END) == 200 and folder.sizes() == [100_000]
  sent.clear()
  assert run(*[chunk] * 14, END, length=700_000) == 413 and not sent and folder.bodies == 1  # not a byte is read
  assert run(*[chunk] * 14, END) == 413 and len(sent) == 4  # what lies about its length, or does not say it
  assert run(chunk, chunk, END, path="/gradio_api/queue/join") == 413  # other bodies are small
  assert folder.sizes() == [100_000]


@pytest.mark.needs("gradio")
def test_the_quota_holds_while_bytes_arrive(tmp_path, loop):
  folder = Folder(tmp_path)
  app = guarded(folder, tmp_path, quota=1000)
  most = 0

  async def upload(*sizes, seconds=1, length=None):
    nonlocal most
    chunks = [(seconds, bytes(size)) for size in sizes]
    task = asyncio.ensure_future(send_body(app, [*chunks, END], length=sum(sizes) if length is None else length))
    while not task.done():
      await asyncio.sleep(0.1)
      most = max(most, sum(folder.sizes()))
    return await task

  async def together(*uploads):
    return sorted(await asyncio.gather(*uploads))

  run = loop.run_until_complete
  assert run(upload(600)) == run(upload(300)) == 200 and folder.sizes() == [300, 600]
  assert run(upload(300, 300)) == 200 and folder.sizes() == [300, 600]  # the oldest made room
  assert run(together(upload(200, 200, 200), upload(200, 200, 200))) == [200, 507] and folder.sizes()[-1] == 600
  assert run(upload(500, 501)) == 507
  assert most <= 1000


@pytest.mark.needs("gradio")
@pytest.mark.parametrize("end", [(0, None), (11, b"late")])
def test_of_an_upload_that_is_not_finished_nothing_is_left(tmp_path, loop, end):
  folder = Folder(tmp_path)
  assert loop.run_until_complete(send_body(guarded(folder, tmp_path), [(1, b"part"), end])) in (400, 408)
  assert folder.bodies == 1 and not folder.sizes()


def test_parts_that_nobody_writes_are_removed(tmp_path):
  (tmp_path / "tmp1").write_bytes(bytes(9))
  assert ask(guarded(page, tmp_path), "POST", host="localhost") == 200
  assert not list(tmp_path.iterdir())


@pytest.mark.needs("gradio")
def test_stalled_and_slow_uploads_give_their_places_back(tmp_path, loop):
  folder = Folder(tmp_path)
  app = guarded(folder, tmp_path, stalled=10, slow=60)
  ends = []

  async def one(*chunks):
    status = await send_body(app, chunks)
    ends.append((status, loop.time()))

  async def all_of_them():
    dripping = [(9, b".")] * 99
    bad = [asyncio.ensure_future(one(*chunks)) for chunks in ([], [], [(5, b".")], dripping)]
    await asyncio.sleep(1)
    await one(END)
    await asyncio.sleep(10)
    await one(END)
    await asyncio.gather(*bad)

  loop.run_until_complete(all_of_them())
  assert ends == [(503, 1), (408, 10), (408, 10), (200, 11), (408, 15), (408, 60)]


@pytest.mark.needs("gradio")
@pytest.mark.parametrize(
  "error, status", [(ValueError("no"), 500), (OSError(errno.ENOSPC, "No space left on device"), 507)]
)
def test_an_error_of_the_page_is_a_line_in_the_log(tmp_path, error, status):
  async def broken(scope, receive, send):
    raise error

  log = []
  assert ask(guarded(broken, tmp_path, log_fn=log.append), host="localhost") == status
  assert log == [error]


def test_what_a_visitor_sent_cannot_write_to_the_terminal():
  line = one_line(ValueError("a\x1b[2J\r\nb" + "c" * 9999))
  assert line.startswith("ValueError: a\\x1b[2J bccc") and line.endswith("c...") and len(line) < 400
  assert one_line(KeyError()) == "KeyError"


# --- Passwords ------------------------------------------------------------------------------------


class Door:
  """The page's login, which knows one password, and a clock."""

  def __init__(self):
    self.now, self.tries = 0.0, 0
    self.logins = Logins(free=3, clock=lambda: self.now)

  async def page(self, scope, receive, send):
    self.tries += 1
    status = 200 if (await receive())["body"] == b"right" else 400
    await send({"type": "http.response.start", "status": status, "headers": []})

  def ask(self, password, address="1.2.3.4", path="/login"):
    return asyncio.run(self.asked(password, address, path))[0]

  async def asked(self, password, address="1.2.3.4", path="/login"):
    """Return status and Retry-After."""
    answers = []

    async def receive():
      await asyncio.sleep(0)
      return {"type": "http.request", "body": password.encode()}

    async def send(message):
      answers.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"localhost")]}
    await self.app({**scope, "client": address and (address, 80)}, receive, send)
    wait = dict(answers[0]["headers"]).get(b"retry-after")
    return answers[0]["status"], wait and int(wait)


@pytest.fixture
def door(tmp_path):
  door = Door()
  door.app = guarded(door.page, tmp_path, logins=door.logins)
  return door


@pytest.mark.needs("gradio")
def test_wrong_passwords_wait_longer_and_longer_and_the_right_one_works_later(door):
  assert [door.ask("wrong") for _ in range(3)] == [400] * 3
  for pause in (1, 2, 4, 8, 16, 32, 60, 60):
    assert asyncio.run(door.asked("right")) == (429, pause)
    door.now += pause - 0.5
    assert asyncio.run(door.asked("wrong")) == (429, 1)
    door.now += 0.5
    assert door.ask("wrong") == 400
  assert door.tries == 11  # refused ones do not reach the passwords
  door.now += 60
  assert door.ask("right") == 200
  assert door.ask("wrong", path="/login/") == 400  # the right one does not make the others forgotten
  assert asyncio.run(door.asked("right")) == (429, 60)
  door.now += 3601
  assert [door.ask("wrong") for _ in range(4)] == [400] * 3 + [429]


@pytest.mark.needs("gradio")
def test_wrong_passwords_at_a_time_are_as_many_as_one_after_the_other(door):
  async def at_a_time():
    return [status for status, _ in await asyncio.gather(*(door.asked("wrong") for _ in range(500)))]

  statuses = asyncio.run(at_a_time())
  assert statuses.count(400) == 3 and statuses.count(429) == 497


@pytest.mark.needs("gradio")
def test_failures_of_an_address_are_not_those_of_others(door):
  assert [door.ask("wrong", "2001:db8::1") for _ in range(3)] == [400] * 3
  assert door.ask("right", "2001:db8::2:3") == 429  # the same network of a visitor
  assert door.ask("right", "2001:db8:0:1::1") == door.ask("right", "::ffff:1.2.3.4") == door.ask("right", None) == 200

  async def many():
    for i in range(5000):
      await door.asked("wrong", f"10.0.{i // 256}.{i % 256}")

  asyncio.run(many())
  assert len(door.logins._failures) == 4096


def test_passwords_are_those_of_their_users():
  check = password_check([("ada", "one"), ("bob", "two"), ("bob", "three"), ("Zoë", "\ud800")])
  assert check("ada", "one") and check("bob", "three") and check("Zoë", "\ud800")
  assert not any(check(*pair) for pair in [("ada", "three"), ("bob", "two"), ("", ""), ("eve", "one"), ("ada", "One")])


@pytest.mark.needs("gradio")
@pytest.mark.parametrize("auth", ["name", ":", "name:", ":word", "@missing", "@empty", "@twice"])
def test_a_password_that_is_none_is_refused(tmp_path, auth):
  (tmp_path / "empty").touch()
  (tmp_path / "twice").write_text("ada:one\nbob:two\nada:three\n")
  result = call("demo", "--preset=digits", f"--auth={auth}", cwd=tmp_path)
  messages = {"@missing": "cannot be read", "@twice": "--auth must have one line for each user, got more for ada"}
  assert result.code == 2 and messages.get(auth, "--auth must be USER:PASSWORD") in result.error


@pytest.mark.needs("gradio")
def test_an_address_is_no_name_of_a_host(tmp_path):
  result = call("demo", "--preset=digits", "--allowed_hosts=a.example,https://b.example", cwd=tmp_path)
  assert result.code == 2 and "names such as page.example, got 'https://b.example'" in result.error


GOOD = {
  "max_batch": 4,
  "data": {
    "name": "a",
    "version": "",
    "splits": {"train": 1, "validation": 1, "test": 1},
    "levels": 8,
    "image_shape": [1, 1, 1],
    "digest": "a",
  },
  "checkpoint": {"val_bits_per_dim": None},
  "evaluation": {"test": {"images": 3, "bounds": [{"num_samples": 1, "bits_per_dim": 2.0}]}},
}


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"data": []}, "`data` must be a table"),
    ({"data": {"name": "a"}}, "`splits` must be a table, got None"),
    ({"checkpoint": {"val_bits_per_dim": "2"}}, "must be int or float or null, got '2'"),
    ({"evaluation": {"test": 1}}, "must be a table"),
    ({"evaluation": {"test": {"images": 3, "bounds": []}}}, "empty"),
    ({"evaluation": {"test": {"images": 3, "bounds": [], "data": {"name": "a"}}}}, "`data`: `splits` must be a table"),
    ({"evaluation": {"test": {"images": 3, "bounds": [{}]}}}, "`num_samples` must be int, got None"),
  ],
)
def test_metadata_that_the_page_cannot_show_is_named(changes, message):
  assert checked_metadata(GOOD) == GOOD
  with pytest.raises(InputError, match=message):
    checked_metadata(GOOD | changes)


def test_the_printed_address_has_brackets_around_ipv6():
  assert demo_flags.address("127.0.0.1", 7860) == "http://127.0.0.1:7860"
  assert demo_flags.address("::1", 7860) == "http://[::1]:7860"

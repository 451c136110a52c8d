"""Which requests reach the page of bin/demo, what its folder keeps, and who is asked for a password."""

import asyncio

import pytest

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo import guard
from flowpp_tf.demo.metadata import checked_metadata
from support.programs import call


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


async def page(scope, receive, send):
  await send({"type": "http.response.start", "status": 200, "headers": []})


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
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:7860"}, 200),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://evil.example"}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "null"}, 403),
    ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:9999"}, 403),
  ],
)
def test_requests_of_other_sites_are_refused(tmp_path, host, headers, status):
  app = guard.Guard(page, guard.allowed_hosts(host, ["Added.example"]), tmp_path)
  for method in ("GET", "POST"):
    assert ask(app, method, **headers) == status
  assert ask(app, kind="websocket", **headers) == status


def test_the_oldest_files_make_room(tmp_path):
  app = guard.Guard(page, guard.allowed_hosts("127.0.0.1"), tmp_path, quota=250)
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
    app = guard.Guard(slow, guard.allowed_hosts("127.0.0.1"), tmp_path)

    async def send(message):
      statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/upload", "headers": [(b"host", b"localhost")]}
    await asyncio.gather(*(app(scope, None, send) for _ in range(9)))

  asyncio.run(all_at_once())
  assert statuses.count(200) == 4 and statuses.count(503) == 5


@pytest.mark.needs("gradio")
@pytest.mark.parametrize("auth", ["name", ":", "name:", ":word", "@missing", "@empty"])
def test_a_password_that_is_none_is_refused(tmp_path, auth):
  (tmp_path / "empty").touch()
  result = call("demo", "--preset=digits", f"--auth={auth}", cwd=tmp_path)
  assert result.code == 2 and ("--auth must be USER:PASSWORD" in result.error or "cannot be read" in result.error)


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

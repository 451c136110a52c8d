"""Passwords of visitors, and how often one may be tried."""

from collections.abc import Callable, Iterable
import contextlib
import hashlib
import hmac
import ipaddress
import math
import time
from typing import Any

from flowpp_tf.demo.responses import refusal

_FREE = 5  # failures before the first pause
_LONGEST_PAUSE = 60  # seconds
_FORGOTTEN = 3600  # seconds after which failures do not count any more
_MOST_ADDRESSES = 4096


class Logins:
  """Lets an address try passwords; after some failures it waits 1, 2, 4, ... seconds before the next.

  Args:
    free: failures before the first pause.
    clock: returns the time in seconds.
  """

  def __init__(self, free: int = _FREE, clock: Callable[[], float] = time.monotonic) -> None:
    self._free, self._clock = free, clock
    self._failures: dict[str, tuple[int, float, float]] = {}  # by address: how many, the last, the end of the pause

  async def serve(self, app: Any, scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Call an ASGI application that answers a login with 200 or 302, and a wrong one otherwise; or refuse it."""
    address = _network(scope)
    now = self._clock()
    pause = self._failures.get(address, (0, now, now))[2] - now
    if pause > 0:
      text = f"too many failed logins; try again in {math.ceil(pause)} s"
      await refusal(429, text, retry_after=pause)(scope, receive, send)
      return
    self._count(address, 1)  # before the answer is known: many can be asked for at a time

    async def answer(message):
      if message["type"] == "http.response.start" and message["status"] in (200, 302):
        self._count(address, -1)
      await send(message)

    await app(scope, receive, answer)

  def _count(self, address, change):
    """Add to the failures of an address; a success takes its own back, and not the failures before it."""
    now = self._clock()
    count, last, _ = self._failures.pop(address, (0, now, now))
    count = max(0, (count if now - last < _FORGOTTEN else 0) + change)
    pause = min(2.0 ** min(count - self._free, 60), _LONGEST_PAUSE) if change > 0 and count >= self._free else 0
    if count:
      self._failures[address] = count, now, now + pause
    while len(self._failures) > _MOST_ADDRESSES:
      del self._failures[next(iter(self._failures))]  # who tried last the longest ago


def password_check(visitors: Iterable[tuple[str, str]]) -> Callable[[str, str], bool]:
  """Return a function of user and password that says whether they are known, in a time that tells nothing.

  Examples:
    >>> from flowpp_tf.demo.logins import password_check
    >>> check = password_check([("ada", "secret")])
    >>> check("ada", "secret"), check("ada", "guess"), check("eve", "secret")
    (True, False, False)
  """
  known = [(_digest(user), _digest(password)) for user, password in dict(visitors).items()]

  def check(user: str, password: str) -> bool:
    given = _digest(user), _digest(password)
    found = False
    for pair in known:
      found |= hmac.compare_digest(pair[0], given[0]) & hmac.compare_digest(pair[1], given[1])
    return found

  return check


def _digest(text):
  return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _network(scope):
  """Return the address of a request; of IPv6 the network that one visitor usually has whole."""
  text = (scope.get("client") or ("",))[0]
  with contextlib.suppress(ValueError):
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
      return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))
  return text

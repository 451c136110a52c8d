"""Mutations that know the formats: bytes, numbers, lines of text, JSON; and checksums of PNG files made right."""

import json
import struct
import zlib

_NUMBERS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x01\0\0\0", b"\0\0\0\x01")
_VALUES = (
  None, True, False, 0, -1, 1, 2, 3, 2**16, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, 1e308, float("nan"),
  float("inf"), "", "a", "\0", "\udcff", "é" * 50, "x" * 5000, "../..", "/dev/zero", "1", [], {}, [[]], [1] * 100,
  {"a": {}}, [None], "columns:9999", "squeeze," * 9, "float16", "train", "nan",
)  # fmt: skip


def mutate_bytes(data, rng, other=b""):
  """Return a damaged copy: bits, runs, numbers, a cut, a part moved, or a part of another file."""
  data = bytearray(data or b"\0")
  for _ in range(rng.choice((1, 1, 1, 2, 4))):
    place = rng.randrange(len(data))
    length = rng.randrange(1, min(len(data), 64) + 1)
    kind = rng.randrange(9)
    if kind == 0:
      data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
      data[place] = rng.randrange(256)
    elif kind == 2:
      del data[place:]
    elif kind == 3:
      data[place : place + length] = rng.randbytes(length)
    elif kind == 4:
      data[place:place] = data[place : place + length]
    elif kind == 5:
      del data[place : place + length]
    elif kind == 6:
      data[place : place + 4] = rng.choice(_NUMBERS)
    elif kind == 7 and other:
      start = rng.randrange(len(other))
      data[place : place + length] = other[start : start + rng.randrange(1, 256)]
    else:
      data[place] = (data[place] + rng.choice((-1, 1, 16, -16))) % 256
    data = data or bytearray(b"\0")
  return bytes(data)


def mutate_json(text, rng):
  """Return a JSON text with values in other places, of other types, left out or nested; of no JSON, damaged bytes."""
  try:
    value = json.loads(text)
  except (ValueError, RecursionError):
    return mutate_bytes(text, rng)
  if rng.randrange(6) == 0:
    return mutate_bytes(text, rng)
  for _ in range(rng.choice((1, 1, 2, 3))):
    value = _mutate_value(value, rng)
  if rng.randrange(200) == 0:
    return b"[" * 10_000 + b"]" * 10_000
  return json.dumps(value).encode(errors="surrogatepass")


def _mutate_value(value, rng):
  if isinstance(value, dict) and value and rng.randrange(8):
    key = rng.choice([*value])
    kind = rng.randrange(10)
    if kind == 0:
      return {k: v for k, v in value.items() if k != key}
    if kind == 1:
      return {**value, rng.choice(("format", "seed", "x", "", "num_classes", "condition_shape", key + "_")): value[key]}
    return {**value, key: _mutate_value(value[key], rng)}
  if isinstance(value, list) and value and rng.randrange(4):
    i = rng.randrange(len(value))
    return [*value[:i], _mutate_value(value[i], rng), *value[i + rng.choice((0, 1, 1)) :]]
  if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.randrange(3):
    return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value / 2, str(value)))
  return rng.choice(_VALUES)


def mutate_lines(data, rng, words=()):
  """Return lines of text with lines repeated, left out, joined, or with other words and numbers."""
  lines = data.split(b"\n")
  i = rng.randrange(len(lines))
  kind = rng.randrange(7)
  if kind == 0:
    lines.insert(i, lines[rng.randrange(len(lines))])
  elif kind == 1 and len(lines) > 1:
    del lines[i]
  elif kind in (2, 3) and words:
    word = rng.choice(words)
    name, equals, _ = lines[i].partition(b"=")
    value = str(rng.choice(_VALUES)).encode(errors="surrogateescape")
    lines[i] = b"--" + word + b"=" + value if rng.randrange(2) else name + b"=" + value
  elif kind == 4:
    lines[i] = lines[i].replace(b"=", b" ", 1)
  else:
    lines[i] = mutate_bytes(lines[i], rng)
  return b"\n".join(lines)


# --- Checksums ------------------------------------------------------------------------------------------------


def sign_png(data):
  """Return a PNG whose chunks have right checksums, as far as they can be found."""
  data, place = bytearray(data), 8
  while place + 12 <= len(data):
    size = int.from_bytes(data[place : place + 4], "big")
    end = place + 8 + size
    if end + 4 > len(data):
      break
    data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
    place = end + 4
  return bytes(data)

"""Show a trained model on a web page: samples, interpolations, what it says of an image, its card.

bin/demo
bin/demo --preset=fashion_mnist
bin/demo --workdir=runs/digits
bin/demo --saved_model=runs/digits/saved_model/1

Without a model it shows all presets. By default only this machine can open the page, see --host and --auth. The page
loads nothing from other servers and reports nothing. Its examples are test images of the run if the data are
available, else samples. It shows typicality if bin/score has measured it for the run with the same number of samples.
"""

import re
import socket

from absl import flags

from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.programs import model_flags

COMMON = "preset workdir saved_model host port auth".split()


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_string("saved_model", None, "Directory written by bin/export, instead of --workdir or --preset.")
  flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all addresses of this machine.")
  flags.DEFINE_integer("port", 7860, "Port to listen on.", lower_bound=1, upper_bound=65535)
  flags.DEFINE_list(
    "allowed_hosts",
    [],
    "More names under which browsers may ask for the page, such as that of a proxy, or *.example; others are refused.",
  )
  flags.DEFINE_string("auth", None, "Ask visitors for USER:PASSWORD; @FILE reads them from a file, one line for each.")
  flags.DEFINE_integer(
    "num_samples", 16, "Samples of the importance-weighted bound in scores.", lower_bound=1, upper_bound=1 << 20
  )


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given = flags.FLAGS
  if [given.workdir, given.preset, given.saved_model].count(None) < 2:
    raise InputError("give the model as --workdir, --preset or --saved_model, one of them, or none for all presets")
  check_extra("gradio", "demo", "the page")
  visitors_from_flags()
  for name in given.allowed_hosts:
    if not re.fullmatch(r"(\*\.)?[\w.-]+|\[[\da-fA-F:.]+\]", name):
      raise InputError(f"--allowed_hosts must be names such as page.example, got {name!r}")
  _check_can_serve(given.host, given.port)
  if given.saved_model is not None:
    model = f"the SavedModel in {given.saved_model}"
  else:
    model = model_flags.model_from_flags()[0] if given.workdir or given.preset else "all presets"
  return f"showing {model} at {address(given.host, given.port)}"


def address(host: str, port: int) -> str:
  """Return the address of the page; IPv6 numbers stand in brackets."""
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def visitors_from_flags() -> list[tuple[str, str]] | None:
  """Return pairs of user and password, or None."""
  auth = flags.FLAGS.auth
  if auth is None:
    return None
  lines = [auth]
  if auth.startswith("@"):
    with gate.reading(auth[1:]):
      lines = [line for line in gate.read_text(auth[1:]).splitlines() if line.strip()]
  pairs = [tuple(line.strip().split(":", 1)) for line in lines]
  if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
    raise InputError("--auth must be USER:PASSWORD, or @FILE with such lines")
  users = [user for user, _ in pairs]
  if twice := sorted({user for user in users if users.count(user) > 1}):  # of which one password would be lost
    raise InputError(f"--auth must have one line for each user, got more for {', '.join(twice)}")
  return pairs


def _check_can_serve(host, port):
  """Raise an `InputError` if the port cannot be used, before the model is loaded."""
  if not host.strip():  # which the system takes for all addresses
    raise InputError("--host must be an address or a name, got nothing; 0.0.0.0 is for all addresses of this machine")
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()
  except (OSError, UnicodeError) as error:
    raise InputError(f"cannot serve at --host={host} --port={port}: {gate.reason(error)}") from None

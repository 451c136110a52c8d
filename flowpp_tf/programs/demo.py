"""Show a trained model on a web page: samples, interpolations, what it says of an image, its card.

bin/demo
bin/demo --preset=fashion_mnist
bin/demo --workdir=runs/digits
bin/demo --saved_model=runs/digits/saved_model/1

Without a model it shows all presets. By default only this machine can open the page, see --host and --auth. The page
loads nothing from other servers and reports nothing. Its examples are test images of the run if the data are
available, else samples. It shows typicality if bin/score has measured it for the run with the same number of samples.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import ipaddress
import os
import pathlib
import socket
import tempfile
import traceback

from absl import flags
import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo.answers import DemoHandlers
from flowpp_tf.demo.card import ModelCard, provenance, summary
from flowpp_tf.demo.engine import Engine, KnownImages, SavedModelEngine
from flowpp_tf.demo.guard import Guard, allowed_hosts
from flowpp_tf.demo.logins import Logins, password_check
from flowpp_tf.demo.metadata import checked_metadata
from flowpp_tf.demo.responses import one_line
from flowpp_tf.demo.uploads import UPLOAD, Uploads
from flowpp_tf.evaluation import load_typical
from flowpp_tf.evaluation.typicality import typical_indices
from flowpp_tf.exporting import load_saved_model
from flowpp_tf.io import gate
from flowpp_tf.models import presets
from flowpp_tf.programs import data_flags, model_flags, process, run
from flowpp_tf.programs.export import metadata_of_run
from flowpp_tf.programs.score import typical_key

FLAGS = flags.FLAGS
_EXAMPLES = 6


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  flags.DEFINE_string("saved_model", None, "Directory written by bin/export, instead of --workdir or --preset.")
  flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all addresses of this machine.")
  flags.DEFINE_integer("port", 7860, "Port to listen on.", lower_bound=1, upper_bound=65535)
  flags.DEFINE_list(
    "allowed_hosts",
    [],
    "More names under which browsers may ask for the page, such as that of a proxy; others are refused.",
  )
  flags.DEFINE_string("auth", None, "Ask visitors for USER:PASSWORD; @FILE reads them from a file, one line for each.")
  flags.DEFINE_integer(
    "num_samples", 16, "Samples of the importance-weighted bound in scores.", lower_bound=1, upper_bound=1 << 20
  )


def demo_from_flags() -> None:
  """Serve the page until the program is stopped."""
  host, port = FLAGS.host, FLAGS.port
  if [FLAGS.workdir, FLAGS.preset, FLAGS.saved_model].count(None) < 2:
    raise InputError("give the model as --workdir, --preset or --saved_model, one of them, or none for all presets")
  if importlib.util.find_spec("gradio") is None:
    raise InputError("the page needs Gradio, which is not installed: pip install -e '.[demo]'")
  auth = _visitors(FLAGS.auth)
  _check_can_serve(host, port)
  if FLAGS.saved_model is not None:
    models = [_from_saved_model(FLAGS.saved_model, FLAGS.num_samples)]
  else:
    one = FLAGS.workdir or FLAGS.preset
    workdirs = [model_flags.workdir_from_flags()] if one else list(map(model_flags.workdir_of_preset, presets()))
    models = [_from_workdir(workdir, FLAGS.num_samples) for workdir in workdirs]
  if auth is None and not _is_loopback(host):
    run.warn(f"whoever reaches this machine at port {port} can use the page; --auth=USER:PASSWORD asks for a password")
  with tempfile.TemporaryDirectory(prefix="flowpp_demo_") as folder:
    os.environ.update(
      GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=os.path.join(folder, "uploads")
    )  # Gradio reads these on import
    from starlette.middleware import Middleware

    from flowpp_tf.demo import page as gradio_page

    shown = []
    for i, (engine, card, examples) in enumerate(models):
      name, own_folder = os.path.basename(card.source), pathlib.Path(folder, str(i))
      own_folder.mkdir()
      shown.append(
        gradio_page.DemoModel(
          name,
          DemoHandlers(engine, own_folder, _flag_of(card.source)),
          summary(name, card, engine),
          _completed(examples, engine),
          provenance(card),
          card.rows,
        )
      )
    data = (models[0][1].metadata.get("data") or {}).get("name") or shown[0].name
    log = functools.partial(_log, debug=FLAGS.debug)
    page = gradio_page.build_page("Flow++: " + (data if len(shown) == 1 else "presets"), shown, log)
    guard = Middleware(
      Guard,
      hosts=allowed_hosts(host, FLAGS.allowed_hosts),
      uploads=Uploads(pathlib.Path(folder, "uploads")),
      logins=Logins(),
      log_fn=log,
    )
    page.launch(
      server_name=host,
      server_port=port,
      share=False,
      inbrowser=False,
      quiet=True,
      ssr_mode=False,
      prevent_thread_lock=True,
      max_file_size=UPLOAD,
      auth=auth and password_check(auth),
      state_session_capacity=100,
      app_kwargs={"middleware": [guard]},
      **gradio_page.LOOK,
    )
    print(f"the page is at http://{host}:{port}; Ctrl-C ends it", flush=True)
    with contextlib.suppress(process.Interrupted, KeyboardInterrupt):
      page.block_thread()
    page.close(verbose=False)


def _log(error, debug):
  """Print an error of a request as a line, or its traceback."""
  if debug:
    traceback.print_exception(error)
  else:
    process.say("request failed", one_line(error))


def _visitors(auth):
  """Return pairs of user and password, or None."""
  if auth is None:
    return None
  lines = [auth]
  if auth.startswith("@"):
    with gate.reading(auth[1:]):
      lines = [line for line in gate.read_text(auth[1:]).splitlines() if line.strip()]
  pairs = [tuple(line.strip().split(":", 1)) for line in lines]
  if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
    raise InputError("--auth must be USER:PASSWORD, or @FILE with such lines")
  return pairs


def _is_loopback(host):
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _check_can_serve(host, port):
  """Raise an `InputError` if the port cannot be used, before the model is loaded."""
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()
  except (OSError, UnicodeError) as error:
    raise InputError(f"cannot serve at --host={host} --port={port}: {gate.reason(error)}") from None


def _from_workdir(workdir, num_samples):
  """Return the engine of a run, its card, and example images by label."""
  model, settings = workdir.load()
  typical = load_typical(workdir.typicality, typical_key(workdir, settings, num_samples))
  known, examples = _known(_dataset(settings, model.config), settings)
  engine = Engine(model, num_samples, typical.mean if typical else None, known)
  card = ModelCard(
    os.path.normpath(workdir.path), metadata_of_run(workdir, settings), settings, workdir.rows(), _card(workdir)
  )
  return engine, card, examples


def _dataset(settings, config):
  """Return the data of a run, with labels for the names of examples if there are any; None without the data."""
  with_labels = dataclasses.replace(config, num_classes=max(config.num_classes, 2))
  for wanted in (with_labels, config):
    with contextlib.suppress(InputError):
      return data_flags.load_from_settings(settings, wanted, any_classes=True)
  return None


def _known(dataset, settings):
  """Return the images that a model is known by, and examples of its test split by a name."""
  classes = tuple((settings.get("fingerprint") or {}).get("classes") or ())
  if dataset is None:
    return KnownImages(classes=classes), {}
  indices = typical_indices(len(dataset.test), _EXAMPLES)
  of_test = dataset.labels_of("test") if dataset.num_classes else None
  names = [f"test {i}" if of_test is None else f"{dataset.classes[of_test[i]]} (test {i})" for i in indices]
  return KnownImages(dataset.train, dataset.test, classes), {
    name: np.asarray(dataset.test[i]) for name, i in zip(names, indices)
  }


def _card(workdir):
  """Return the model card that a preset has, "" for a run without one."""
  path = workdir.path / "card.md"
  if not path.exists():
    return ""
  with gate.reading(path):
    return gate.read_text(path)


def _flag_of(source):
  """Return the flag of `bin/decompress` that names a model."""
  path = pathlib.Path(source)
  is_copy = path.parent == pathlib.Path("presets") and path.name in presets()
  return f"--preset={path.name}" if is_copy else f"--workdir={source}"


def _from_saved_model(path, num_samples):
  loaded = load_saved_model(path)
  return SavedModelEngine(loaded, num_samples), ModelCard(os.path.normpath(path), checked_metadata(loaded.metadata)), {}


def _completed(examples, engine):
  """Return the examples, or samples if there are none, and an image unlike the training images."""
  if not examples:
    samples = engine.sample(min(_EXAMPLES, engine.most_samples), 0.8, seed=0)
    examples = {f"sample {i}": image for i, image in enumerate(samples)}
  return examples | {"blank image": np.zeros(engine.config.image_shape, np.uint8)}


def main() -> None:
  """Entry point of `flowpp-demo` and `bin/demo`."""
  define_flags()
  run.run_program(demo_from_flags)

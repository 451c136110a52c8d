"""Show a trained model on a web page: samples, interpolations, scores of images, its card.

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
import os
import pathlib
import re
import shlex
import socket
import tempfile
import traceback

import numpy as np

from flowpp_tf.core.checks import pixel_dtype
from flowpp_tf.core.environment import check_extra
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import Range, Rule, at_least, setting
from flowpp_tf.io import gate
from flowpp_tf.io.model_folders import presets
from flowpp_tf.programs import data_options, process
from flowpp_tf.programs.export import metadata_of_run
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import ModelOptions
from flowpp_tf.programs.score import typical_key

_EXAMPLES = 6
# The system would take an empty address for all addresses of this machine.
_HOST = Range(lambda host: bool(host.strip()), "an address or a name; 0.0.0.0 is for all addresses of this machine")
_HOSTS = Range(
  lambda names: all(re.fullmatch(r"(\*\.)?[\w.-]+|\[[\da-fA-F:.]+\]", name) for name in names),
  "names such as page.example",
)
_EXPECTED = "expected the metadata that bin/export writes"


@dataclasses.dataclass(frozen=True)
class DemoOptions(ModelOptions):
  """Options of bin/demo."""

  RULES = (
    Rule("saved_model", lambda options: not (options.preset or options.workdir), "left out with --preset or --workdir"),
  )

  saved_model: str | None = setting(None, "Directory written by bin/export, instead of --workdir or --preset.")
  host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for all addresses of this machine.", _HOST)
  port: int = setting(7860, "Port to listen on.", at_least(1, 65535))
  allowed_hosts: tuple[str, ...] = setting(
    (),
    "More host names that browsers may use for the page, such as a proxy's, or *.example; others are refused.",
    _HOSTS,
  )
  auth: str | None = setting(None, "Ask visitors for USER:PASSWORD; @FILE reads them from a file, one line for each.")
  num_samples: int = setting(16, "Samples of the importance-weighted bound in scores.", at_least(1, 1 << 20))

  @property
  def address(self) -> str:
    """The address of the page."""
    return f"http://{self.server_name}:{self.port}"

  @property
  def server_name(self) -> str:
    """The host, an IPv6 number in brackets."""
    return f"[{self.host}]" if ":" in self.host else self.host

  def visitors(self) -> list[tuple[str, str]] | None:
    """Return pairs of user and password, or None."""
    auth = self.auth
    if auth is None:
      return None
    lines = [auth]
    if auth.startswith("@"):
      with gate.reading(auth[1:]):
        lines = [line for line in gate.read_text(auth[1:]).splitlines() if line.strip()]
    pairs = []
    for line in lines:
      user, _, password = line.strip().partition(":")
      pairs.append((user, password))
    are_complete = bool(pairs) and all(user and password for user, password in pairs)
    if not are_complete or len(dict(pairs)) < len(pairs):
      raise InputError("--auth must be USER:PASSWORD, or @FILE with such lines, one for each user")
    return pairs


def run(options: DemoOptions) -> None:
  """Serve the page until the program is stopped."""
  check_extra("gradio", "demo", "the page")
  auth = options.visitors()
  _check_can_serve(options.host, options.port)
  sources: list[ModelOptions] = []
  if options.saved_model is not None:
    what = options.saved_model
  elif options.workdir or options.preset:
    what = options.find_model()[0]
    sources = [options]
  else:
    what = "all presets"
    sources = [ModelOptions(preset=name) for name in presets()]
  process.phase(f"loading {what}, to show on a page")
  import_tensorflow()
  if options.saved_model is not None:
    models = [_from_saved_model(options.saved_model, options.num_samples)]
  else:
    models = [_from_workdir(source.find_workdir(), options.num_samples) for source in sources]
  if auth is None and options.host not in ("localhost", "127.0.0.1", "::1"):
    process.warn(f"whoever reaches port {options.port} of this machine can use the page; --auth asks for a password")
  with tempfile.TemporaryDirectory(prefix="flowpp_demo_") as folder:
    os.environ.update(
      GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=os.path.join(folder, "uploads")
    )  # Gradio reads these on import
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from flowpp_tf.demo import guard
    from flowpp_tf.demo import page as gradio_page
    from flowpp_tf.demo.answers import DemoHandlers
    from flowpp_tf.demo.card import provenance, summary

    shown = []
    for i, (engine, card, examples) in enumerate(models):
      name = os.path.basename(card.source)
      own_folder = pathlib.Path(folder, str(i))
      own_folder.mkdir()
      with gate.reading(card.source, _EXPECTED):
        texts = summary(name, card, engine), provenance(card)
      answers = DemoHandlers(engine, own_folder, _flag_of(card.source))
      shown.append(gradio_page.DemoModel(name, answers, *texts, _completed(examples, engine), card.rows))
    title = f"Flow++: {shown[0].name if len(shown) == 1 else 'presets'}"
    page = gradio_page.build_page(title, shown, _log)
    hosts = guard.trusted_hosts(options.host, options.allowed_hosts)
    middleware = [
      Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
      Middleware(guard.Guard, uploads=pathlib.Path(folder, "uploads"), log_fn=_log),
    ]
    page.launch(
      server_name=options.server_name,
      server_port=options.port,
      share=False,
      quiet=True,
      ssr_mode=False,
      prevent_thread_lock=True,
      max_file_size=guard.UPLOAD,
      auth=auth,
      state_session_capacity=100,
      app_kwargs={"middleware": middleware},
      _frontend=False,  # else Gradio exits if its first request takes three seconds, as on a busy machine
      **gradio_page.LOOK,
    )
    print(f"the page is at {options.address}; Ctrl-C ends it", flush=True)
    with contextlib.suppress(process.Interrupted, KeyboardInterrupt):
      page.block_thread()
    page.close(verbose=False)


def _check_can_serve(host, port):
  """Raise an `InputError` if the port cannot be used, before the model is loaded."""
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()
  except (OSError, UnicodeError) as error:
    raise InputError(f"cannot serve at --host={host} --port={port}: {gate.reason(error)}") from None


def _log(error):
  """Print an error of a request as a line, or its traceback."""
  if process.debugged():
    traceback.print_exception(error)
  else:
    process.say("request failed", f"{type(error).__name__}: {str(error)[:300]}")


def _from_workdir(workdir, num_samples):
  """Return the engine of a run, its card, and example images by label."""
  from flowpp_tf.demo.card import ModelCard
  from flowpp_tf.demo.engine import Engine
  from flowpp_tf.evaluation import load_typical

  model, settings = workdir.load()
  _check_takes_uploads(model.config)
  typical = load_typical(workdir.typicality, typical_key(workdir, settings, num_samples))
  known, examples = _known(_dataset(settings, model.config), settings, model.config)
  engine = Engine(model, num_samples, typical.mean if typical else None, known)
  path = workdir.path / "card.md"  # only presets have one
  with gate.reading(path):
    text = gate.read_text(path) if path.exists() else ""
  metadata = metadata_of_run(workdir, settings)
  return engine, ModelCard(_for_visitors(workdir.path), metadata, settings, workdir.rows(), text), examples


def _check_takes_uploads(config):
  """Raise an `InputError` for a model of real-valued images, or that needs labels: uploads have no label."""
  if config.pixel_levels is None:
    raise InputError("the page is for models of integer images, and this one's are real-valued")
  if config.num_classes and not config.label_dropout:
    raise InputError("the page is for models that do without a label, too: train with --label_dropout=0.1")


def _dataset(settings, config):
  """Return the data of a run, or None if they are missing; download nothing."""
  return data_options.load_with_labels({**settings, "download": False}, config)


def _known(dataset, settings, config):
  """Return the `KnownImages` of a model, and examples of its test split by name."""
  from flowpp_tf.demo.engine import KnownImages
  from flowpp_tf.evaluation.calibration import typical_indices

  trained = settings.get("fingerprint") or {}
  classes = tuple(trained.get("classes") or ())
  if dataset is None:
    return KnownImages(classes=classes), {}
  labels = dataset.labels_of("test") if dataset.num_classes else None
  examples = {}
  for i in typical_indices(len(dataset.test), _EXAMPLES):
    name = f"test {i}" if labels is None else f"{dataset.classes[labels[i]]} (test {i})"
    examples[name] = np.asarray(dataset.test[i])
  own = dataset if config.num_classes else dataclasses.replace(dataset, labels=None, classes=())
  what = "training images"
  if trained.get("sha256") not in (None, own.fingerprint()["sha256"]):
    what = f"images of {dataset.name}, not those of training"
  return KnownImages(dataset.train, dataset.test, classes, what), examples


def _flag_of(source):
  """Return the flag of `bin/decompress` that names a model."""
  path = pathlib.Path(source)
  is_copy = path.parent == pathlib.Path("presets") and path.name in presets()
  return f"--preset={path.name}" if is_copy else f"--workdir={shlex.quote(source)}"


def _for_visitors(path):
  """Return a path for visitors, without the location on this machine."""
  path = os.path.normpath(path)
  return os.path.basename(path) if os.path.isabs(path) else path


def _from_saved_model(path, num_samples):
  from flowpp_tf.demo.card import ModelCard
  from flowpp_tf.demo.engine import SavedModelEngine
  from flowpp_tf.exporting import load_saved_model

  loaded = load_saved_model(path)
  _check_takes_uploads(loaded.config)
  with gate.reading(path, _EXPECTED):
    return SavedModelEngine(loaded, num_samples), ModelCard(_for_visitors(path), loaded.metadata), {}


def _completed(examples, engine):
  """Return the examples, or samples without any, and an image unlike the training images."""
  if not examples:
    samples = engine.sample(min(_EXAMPLES, engine.most_samples), 0.8, seed=0)
    examples = {f"sample {i}": image for i, image in enumerate(samples)}
  return examples | {"blank image": np.zeros(engine.config.image_shape, pixel_dtype(engine.config.levels))}

"""Show a trained model on a web page. The flags are in demo_flags.py."""

import contextlib
import functools
import ipaddress
import os
import pathlib
import tempfile
import traceback

from absl import flags
import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo.about import about
from flowpp_tf.demo.answers import DemoHandlers
from flowpp_tf.demo.engine import Engine, SavedModelEngine
from flowpp_tf.demo.guard import Guard, allowed_hosts
from flowpp_tf.demo.logins import Logins, password_check
from flowpp_tf.demo.metadata import checked_metadata
from flowpp_tf.demo.responses import one_line
from flowpp_tf.demo.uploads import UPLOAD, Uploads
from flowpp_tf.evaluation import load_typical
from flowpp_tf.evaluation.typicality import typical_indices
from flowpp_tf.exporting import load_saved_model
from flowpp_tf.models import presets
from flowpp_tf.programs import data_flags, model_flags, process, run
from flowpp_tf.programs.demo_flags import visitors_from_flags
from flowpp_tf.programs.export import metadata_of_run
from flowpp_tf.programs.score import typical_key

FLAGS = flags.FLAGS
_EXAMPLES = 6


def demo_from_flags() -> None:
  """Serve the page until the program is stopped."""
  host, port = FLAGS.host, FLAGS.port
  auth = visitors_from_flags()
  if FLAGS.saved_model is not None:
    sources = [FLAGS.saved_model]
    models = [_from_saved_model(FLAGS.saved_model, FLAGS.num_samples)]
  else:
    one = FLAGS.workdir or FLAGS.preset
    workdirs = [model_flags.workdir_from_flags()] if one else list(map(model_flags.workdir_of_preset, presets()))
    sources = [str(workdir.path) for workdir in workdirs]
    process.phase("loading and tracing the model(s)")
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
    for i, (source, (engine, metadata, examples)) in enumerate(zip(sources, models)):
      path, own_folder = os.path.normpath(source), pathlib.Path(folder, str(i))
      own_folder.mkdir()
      shown.append(
        gradio_page.DemoModel(
          os.path.basename(path),
          DemoHandlers(engine, own_folder),
          about(path, engine, metadata),
          _completed(examples, engine),
        )
      )
    data = (models[0][1].get("data") or {}).get("name") or shown[0].name
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


def _is_loopback(host):
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _from_workdir(workdir, num_samples):
  """Return the engine of a run, its metadata, and example images by label."""
  model, settings = workdir.load()
  metadata = metadata_of_run(workdir, settings)
  typical = load_typical(workdir.typicality, typical_key(workdir, settings, num_samples))
  engine = Engine(model, num_samples, typical.mean if typical else None)
  try:
    images = data_flags.load_from_settings(settings, model.config).test
    examples = {f"test {i}": images[i] for i in typical_indices(len(images), _EXAMPLES)}
  except InputError:  # the data are not available
    examples = {}
  return engine, metadata, examples


def _from_saved_model(path, num_samples):
  loaded = load_saved_model(path)
  return SavedModelEngine(loaded, num_samples), checked_metadata(loaded.metadata), {}


def _completed(examples, engine):
  """Return the examples, or samples if there are none, and an image unlike the training images."""
  if not examples:
    samples = engine.sample(min(_EXAMPLES, engine.most_samples), 0.8, seed=0)
    examples = {f"sample {i}": image for i, image in enumerate(samples)}
  return examples | {"blank image": np.zeros(engine.config.image_shape, np.uint8)}

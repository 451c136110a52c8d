"""Run the authors' release, TensorFlow 1 code, by TensorFlow 2 in one process. Its code is not part of this project.

git clone https://github.com/aravindsrinivas/flowpp /tmp/release
python benchmarks/release.py --release=/tmp/release --steps=10

prints the number of its cifar10 model's parameters, and bits/dim of each step on the same few random images: the loss
that it reports itself, from its own training loop. The files are read where they are; copies with imports of
`tensorflow.compat.v1` live in a temporary folder while they are imported. Horovod, mpi4py and tqdm have stand-ins of
one process. All settings are those that its `run_cifar.main` gives; only the batch sizes, the learning rate and the
images are ours, and there is no validation before the first step.
"""

import importlib
import pathlib
import re
import sys
import tempfile
import types

from absl import app, flags
import numpy as np

FLAGS = flags.FLAGS
MODULES = ("flows", "flow_training", "logistic", "run_cifar", "utils")
IMAGE_SHAPE = (32, 32, 3)
FIRST_STEP = "step 0:"  # what the line begins with that is printed after it
# Modules of TensorFlow that are where they were in version 1.
_UNMOVED = ("core", "python")


def rewritten(source):
  """Return source code of TensorFlow 1 that imports `tensorflow.compat.v1`; lines keep their numbers.

  Examples:
    >>> rewritten("import tensorflow as tf")
    'import tensorflow.compat.v1 as tf'
  """
  source = re.sub(r"(?m)^(\s*)import tensorflow as\b", r"\1import tensorflow.compat.v1 as", source)
  return re.sub(
    rf"(?m)^(\s*)from tensorflow(?=[. ])(?!\.({'|'.join(_UNMOVED)})\b)", r"\1from tensorflow.compat.v1", source
  )


def stand_ins():
  """Return modules of one process by name, for what the release imports and this project does not need."""
  import tensorflow.compat.v1 as tf

  horovod = _module(
    "horovod.tensorflow",
    init=lambda: None,
    mpi_threads_supported=lambda: True,
    size=lambda: 1,
    rank=lambda: 0,
    local_rank=lambda: 0,
    allgather=lambda tensor: tensor,
    broadcast_global_variables=lambda root: tf.no_op(),
    DistributedOptimizer=lambda optimizer: optimizer,
  )
  world = types.SimpleNamespace(Get_size=lambda: 1, Barrier=lambda: None, gather=lambda value, root: [value])
  return {
    "horovod": _module("horovod", tensorflow=horovod),
    "horovod.tensorflow": horovod,
    "mpi4py": _module("mpi4py", MPI=types.SimpleNamespace(COMM_WORLD=world)),
    "tqdm": _module("tqdm", tqdm=lambda iterable, desc=None: iterable, trange=range),
  }


def _module(name, **content):
  module = types.ModuleType(name)
  vars(module).update(content)
  return module


def load(folder):
  """Return the release's modules by name, imported with TensorFlow 2 in the mode of version 1.

  Args:
    folder: its checkout, in which there is the folder `flows`.

  Raises:
    FileNotFoundError: if a file is not there.
  """
  import tensorflow.compat.v1 as tf

  sources = {name: (pathlib.Path(folder) / "flows" / f"{name}.py").read_text() for name in MODULES}
  tf.disable_v2_behavior()
  sys.modules.update(stand_ins())
  with tempfile.TemporaryDirectory() as copies:
    package = pathlib.Path(copies) / "flows"
    package.mkdir()
    for name, source in sources.items():
      (package / f"{name}.py").write_text(rewritten(source))
    sys.path.insert(0, copies)
    try:
      return {name: importlib.import_module(f"flows.{name}") for name in MODULES}
    finally:
      sys.path.remove(copies)


def settings(modules):
  """Return the arguments of `train` that the release's own `run_cifar.main` gives."""
  given, program = {}, modules["run_cifar"]
  train, arguments = program.train, sys.argv
  program.train, sys.argv = given.update, ["run_cifar"]
  try:
    program.main()
  finally:
    program.train, sys.argv = train, arguments
  return given


class _Never:
  """A number of epochs between validations after which none comes: `epoch % never` is never 0."""

  def __rmod__(self, epoch):
    return 1


def train(folder, batch, init_batch, before_step, after_step):
  """Run the release's training loop on random images until `before_step` ends it.

  Args:
    folder: its checkout.
    batch: images of a step.
    init_batch: images of the data-dependent initialisation, a multiple of `batch`.
    before_step: function of the number of the step, from 0; it returns the learning rate, or ends the loop by raising.
    after_step: function of the values that the release logs after a step, a dict, such as "bpd".
  """
  modules = load(folder)
  training, images = modules["flow_training"], random_images(init_batch)
  training.load_data = lambda dataset, dtype: (images.astype(dtype), images.astype(dtype))
  training.TensorBoardOutput = lambda folder: types.SimpleNamespace(
    writekvs=lambda values, step: after_step(dict(values))
  )
  with tempfile.TemporaryDirectory() as logs:
    given = settings(modules) | dict(
      logdir=f"{logs}/run",
      lr_schedule=before_step,
      init_bs=init_batch,
      total_bs=batch,
      steps_per_log=1,
      epochs_per_val=_Never(),
    )
    training.train(**given)


def inference(folder, batch, init_batch):
  """Return functions of nothing: `evaluate` gives the log-likelihood ratios `[B]` in nats, `sample` images `[B, ...]`.

  The graphs are those that the release's `evaluate` builds, of the current weights instead of their averages: random
  ones, initialised on `init_batch` random images, of which the first `batch` are evaluated.
  """
  import tensorflow.compat.v1 as tf

  modules, images = load(folder), random_images(init_batch)
  dequant_flow, flow = settings(modules)["flow_constructor"]()

  def forward(images, init):
    x = tf.placeholder(tf.float32, images.shape)
    kwargs = dict(vcfg=modules["flows"].VarConfig(init=init, ema=None, dtype=tf.float32), dropout_p=0, verbose=False)
    built = modules["flow_training"].build_forward(x=x, dequant_flow=dequant_flow, flow=flow, flow_kwargs=kwargs)
    return built, {x: images}, kwargs

  (_, _, init_loss, _), init_images, _ = forward(images, init=True)
  (_, y, _, log_ratios), fed, kwargs = forward(images[:batch], init=False)
  samples, _ = flow.inverse(tf.random_normal(y.shape.as_list()), **kwargs)
  session = tf.Session()
  session.run(tf.global_variables_initializer())
  session.run(init_loss, init_images)
  return {"evaluate": lambda: session.run(log_ratios, fed), "sample": lambda: session.run(samples)}


def train_command(folder, batch, init_batch):
  """Return the command that trains the release in `folder`; it prints a line that begins with `FIRST_STEP`."""
  arguments = [f"--release={folder}", f"--batch_size={batch}", f"--init_batch_size={init_batch}", "--steps=2"]
  return [sys.executable, __file__, *arguments]


def parameters():
  """Return the number of parameters of the model in TensorFlow 1's default graph."""
  import tensorflow.compat.v1 as tf

  return sum(v.shape.num_elements() for v in tf.trainable_variables())


def random_images(count):
  """Return random images of bytes, `[count, 32, 32, 3]`, as float32."""
  return np.random.RandomState(0).randint(0, 256, [count, *IMAGE_SHAPE]).astype(np.float32)


def define_flags():
  """Define the script's flags; a function, as tests import this file."""
  flags.DEFINE_string("release", None, "Folder with the release's checkout.", required=True)
  flags.DEFINE_integer("steps", 10, "Training steps.")
  flags.DEFINE_integer("batch_size", 4, "Images of a step.")
  flags.DEFINE_integer("init_batch_size", 32, "Images of the initialisation, which the steps use too; few give NaNs.")
  flags.DEFINE_float("learning_rate", 3e-4, "Learning rate, without the release's warm-up.")


def main(argv):
  del argv

  def before_step(step):
    if step == FLAGS.steps:
      sys.exit()
    return FLAGS.learning_rate

  def after_step(values):
    print(f"step {values['iter']}: {values['bpd']:.3f} bits/dim, {parameters():,} parameters", flush=True)

  train(FLAGS.release, FLAGS.batch_size, FLAGS.init_batch_size, before_step, after_step)


if __name__ == "__main__":
  define_flags()
  app.run(main)

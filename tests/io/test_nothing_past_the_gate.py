"""Nothing of the package opens or parses a file but the gate: by the text of the package, and while it runs.

TensorFlow's and Keras' own readers open files in C++, or by themselves, which neither test sees:
- `tf.train.Checkpoint.read`, of a checkpoint whose manifest has its SHA-256;
- `tf.saved_model.load`: a SavedModel is a program, load only those that you trust;
- TensorFlow Datasets, of data that it has prepared;
- absl, of flag files, which are the user's own;
- what Keras is given by name: `.weights.h5` and `.keras` files, shards of weights, Orbax checkpoints.
"""

import ast
import json
import textwrap

import pytest

from support.programs import ROOT, run
from test_floors import modules

LAST = {"open", "fdopen", "read_bytes", "read_text", "copyfile", "copytree", "copyfileobj", "open_memmap", "memmap"}
WHOLE = {
  *("shutil.copy", "shutil.copy2", "h5py.File", "np.load", "np.fromfile", "np.loadtxt", "np.genfromtxt"),
  *("json.load", "json.loads", "pickle.load", "pickle.loads", "zipfile.ZipFile", "tf.io.read_file"),
  *("safetensors.numpy.load", "safetensors.numpy.load_file", "safetensors.safe_open"),
}
EXCEPTIONS = {  # of a module: its calls, and the reason
  "io.gate": ("os.open os.fdopen json.loads zipfile.ZipFile archive.open np.load", "the gate"),
  "io.deep_image": ("fits.open", "of bytes that the gate has read"),
  "io.image_file": ("Image.open", "of bytes that the gate has read"),
  "io.weights_file": ("safetensors.numpy.load", "of bytes that the gate has read"),
  "io.files": ("open os.open shutil.copyfileobj np.lib.format.open_memmap", "writes; syncs what is written"),
  "demo.page": ("shutil.copyfile", "of a picture that this process has made"),
  "data.published": (
    "gzip.open tarfile.open pickle.loads",
    "of a file that the gate has opened, and of its bytes; pickles by their checksums",
  ),
  "config.recipe": ("path.read_text", "a file of the package itself"),
  "devices.strategy": ("json.loads", "of an environment variable"),
  "training.checkpoints": ("open shutil.copyfileobj", "writes, of a file that the gate has opened"),
  "training.loop": ("workdir.open", "a method of the run's store"),
  "training.identity": ("json.loads", "of JSON that this process has made"),
  "programs.process": ("os.open", "opens the null device"),
  "programs.sample": ("open", "writes"),
  "programs.compress": ("open", "writes; reads again what it has written"),
  "programs.decompress": ("open", "writes"),
  "compression.archive": ("json.loads", "of a part of an archive that the gate has opened, whose size is claimed"),
  "compression.description": ("np.load members.open", "of bytes that the gate has read"),
}


def openers(tree):
  """The calls of a module that open or parse a file, as text; those of the gate are none."""
  of_the_gate = {
    alias.asname or alias.name
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module == "flowpp_tf.io.gate"
    for alias in node.names
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      text = ast.unparse(node.func)
      base, _, last = text.rpartition(".")
      if base != "gate" and text not in of_the_gate and (last in LAST or text in WHOLE):
        yield text


def test_no_module_opens_or_parses_a_file_but_by_the_gate():
  """No exception is left over: the search finds each of them."""
  own = {node.name for node in ast.walk(modules()["io.gate"]) if isinstance(node, ast.FunctionDef)}
  found = {(module, text) for module, tree in modules().items() for text in openers(tree)}
  excepted = {(module, text) for module, (texts, _) in EXCEPTIONS.items() for text in texts.split()}
  assert found - {("io.gate", name) for name in own} == excepted, "use flowpp_tf/io/gate.py, or mend EXCEPTIONS"


# --- While it runs --------------------------------------------------------------------------------

CHILD = """
import json, os, pathlib, sys
folder, package = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
opened, past = [], []
ALLOWED = ("io/gate.py", "io/files.py:sync", "io/files.py:locked")

def hook(event, arguments):
  if event != "open" or not isinstance(arguments[0], (str, bytes)):
    return
  path, mode, flags = arguments
  path = os.path.realpath(os.fsdecode(path))
  writes = any(c in mode for c in "wxa+") if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_CREAT)
  if not path.startswith(f"{folder}/") or writes or os.path.isdir(path):  # folders are listed, and removed
    return
  frame, found = sys._getframe(1), None
  while frame is not None and found is None:
    file = frame.f_code.co_filename
    if file.startswith(f"{package}/"):
      found = f"{file[len(str(package)) + 1:]}:{frame.f_code.co_name}"
    frame = frame.f_back
  opened.append(path)
  if found is None or not found.startswith(ALLOWED):
    past.append([os.path.relpath(path, folder), found])

import numpy as np
import flowpp_tf as fpp
from flowpp_tf import data, evaluation, exporting, models, training
from PIL import Image
os.chdir(folder)
"""
PREPARE = """
config = fpp.FlowPlusPlusConfig(
  image_shape=(4, 4, 1), levels=4, structure="columns:1", filters=4, heads=1, blocks=1, components=1, attention=False,
  dequantization="uniform",
)
model = fpp.FlowPlusPlus(config)
images = np.random.RandomState(0).randint(0, 4, [30, 4, 4, 1]).astype(np.uint8)
model.save_to_preset("preset", "a preset")
fpp.export_official_weights(model, "release.npz")
np.savez("data.npz", train=images, validation=images, test=images)
os.mkdir("images")
for i in range(5):
  Image.fromarray(images[i, ..., 0] * 80).save(f"images/{i}.png")
open("splits.txt", "w").write("train 0.png\\ntrain 1.png\\nvalidation 2.png\\ntest 3.png\\n")
sys.addaudithook(hook)
"""
READ = """
fpp.FlowPlusPlus.from_preset("preset"), fpp.load("preset")
models.copy_preset("preset", "copy"), models.copy_preset("preset", "copy")
models.InitialWeights.find("preset").load(model)
fpp.load_official_weights(model, "release.npz")
data.load_dataset("npz:data.npz", levels=4)
data.load_dataset("folder:images", image_shape=(4, 4, 1), splits_file="splits.txt")
"""
TRAIN = """
settings = dict(steps=2, batch_size=8, validate_every=1, tensorboard=(), verbose=False)
for steps in (2, 3):
  model = fpp.train(images, config, "run", init_from="preset", **{**settings, "steps": steps})
workdir = training.Workdir("run")
workdir.weights_info(), workdir.rows()
result = evaluation.evaluate_bits_per_dim(model, images, 1)
evaluation.write_record(workdir.evaluation, "test", result, {"sha256": "a"}, workdir.weights_info(), 0)
evaluation.read_record(workdir.evaluation)
fpp.export(model, "exported/1")
fpp.load_saved_model("exported/1")
"""


def run_child(tmp_path, *parts):
  code = textwrap.dedent("".join((CHILD, *parts, "\nprint(json.dumps([len(opened), past]))")))
  result = run(["-c", code], tmp_path, ROOT / "flowpp_tf", cwd=ROOT).ok()
  return json.loads(result.out.splitlines()[-1])


@pytest.mark.slow
def test_presets_data_and_weights_are_read_by_the_gate(tmp_path):
  count, past = run_child(tmp_path, PREPARE, READ)
  assert count > 30 and not past


@pytest.mark.slow
def test_a_run_is_trained_resumed_evaluated_and_exported_by_the_gate(tmp_path):
  count, past = run_child(tmp_path, PREPARE, TRAIN)
  assert count > 30 and not past


@pytest.mark.slow
def test_the_hook_sees_what_goes_past(tmp_path):
  (tmp_path / "a").write_text("a")
  _, past = run_child(tmp_path, "sys.addaudithook(hook)\nopen('a').read()\nos.open('a', os.O_RDONLY)\n")
  assert past == [["a", None], ["a", None]]

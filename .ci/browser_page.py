"""The files that the page "A flow in the browser" loads: an exported preset, test digits, and ONNX Runtime Web.

ONNX Runtime Web is the npm package onnxruntime-web. All go into the folder of docs/browser/page.js in the site.
"""

import base64
import hashlib
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_WANTED = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PRESET, _IMAGES, _DRAWS = "digits_by_class", 30, 8


def fetch_runtime(target):
  """Fetch the package from npm, once, and write its files that are wanted into a folder."""
  package = ROOT / "build" / f"onnxruntime-web-{VERSION}.tgz"
  if not package.exists():
    package.parent.mkdir(exist_ok=True)
    command = ["npm", "pack", "--silent", f"onnxruntime-web@{VERSION}"]
    subprocess.run(command, cwd=package.parent, check=True, stdout=subprocess.DEVNULL)
  if base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() != SHA512:
    raise RuntimeError(f"{package} has another SHA-512 than expected")
  with tarfile.open(package) as members:
    for name in _WANTED:
      (target / name).write_bytes(members.extractfile(f"package/dist/{name}").read())


def write(target):
  """Write the files into a folder."""
  fetch_runtime(target)
  import flowpp_tf as fpp
  from flowpp_tf.data import load_dataset
  from flowpp_tf.evaluation import Scorer

  model = fpp.FlowPlusPlus.from_preset(_PRESET)
  with tempfile.TemporaryDirectory() as folder:
    export = pathlib.Path(folder, "onnx")
    fpp.export(model, export, "onnx", metadata={"preset": _PRESET})
    for path in export.iterdir():
      shutil.copy(path, target / path.name)
  images = load_dataset("digits").test
  bits = Scorer(model, num_samples=_DRAWS).bits_per_dim(images)
  tests = {"images": images[:_IMAGES].reshape(_IMAGES, -1).tolist(), "bits_per_dim": [round(float(b), 4) for b in bits]}
  (target / "tests.json").write_text(json.dumps(tests))

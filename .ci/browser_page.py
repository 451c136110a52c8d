"""The files that the page "A flow in the browser" loads: an exported preset, test digits, and ONNX Runtime Web.

ONNX Runtime Web is the npm package onnxruntime-web. All go beside docs/browser/page.js in the site.
"""

import json
import pathlib
import shutil
import tempfile

import npm

ROOT = pathlib.Path(__file__).parent.parent
VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_WANTED = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PRESET, _IMAGES, _DRAWS = "digits_by_class", 30, 8


def write(target):
  """Write the files into a folder."""
  package = ROOT / "build" / f"onnxruntime-web-{VERSION}"
  npm.fetch("onnxruntime-web", VERSION, SHA512, lambda path: path.name if path.name in _WANTED else None, package)
  for name in _WANTED:
    shutil.copy(package / name, target / name)
  import flowpp_tf as fpp
  from flowpp_tf.data import load_dataset
  from flowpp_tf.evaluation import Scorer

  model = fpp.FlowPlusPlus.from_preset(_PRESET)
  with tempfile.TemporaryDirectory() as folder:
    export = pathlib.Path(folder, "onnx")
    fpp.export_onnx(model, export, metadata={"preset": _PRESET})
    for path in export.iterdir():
      shutil.copy(path, target / path.name)
  images = load_dataset("digits").test
  bits = Scorer(model, num_samples=_DRAWS).bits_per_dim(images)
  tests = {"images": images[:_IMAGES].reshape(_IMAGES, -1).tolist(), "bits_per_dim": [round(float(b), 4) for b in bits]}
  (target / "tests.json").write_text(json.dumps(tests))

"""The script of docs/browser.md, in Node.js: elements that only remember, and a model whose numbers are known."""

import json
import math
import shutil
import subprocess

import pytest

from support.programs import ROOT

pytestmark = [
  pytest.mark.docs,
  pytest.mark.skipif(shutil.which("node") is None, reason="needs node, which is not installed: apt-get install nodejs"),
]
# The bound of an image is minus its label, and each of its pixels has 3 bits.
PAGE = """
const elements = {}
const element = () => new Proxy({dataset: {}, style: {setProperty() {}}, value: "-1", nextElementSibling: {}}, {
  get: (own, name) => name in own ? own[name] : (...given) => {
    if (name == "querySelector") return elements[given[0]] ??= element()
    if (name == "replaceChildren") own.children = given
    if (name == "appendChild") return given[0]
    if (name == "getContext") return {putImageData() {}}
  },
})
const flow = element()
globalThis.document = {getElementById: () => flow, createElement: element}
globalThis.location = {search: "?seed=1"}
globalThis.Option = class {}
globalThis.ImageData = class { constructor(width, height) { this.data = new Uint8ClampedArray(4 * width * height) } }
const files = {
  "metadata.json": {latent_shape: [4, 4, 4], noise_shape: [8, 8, 1]},
  "tests.json": {images: [Array(64).fill(3)], bits_per_dim: [0, 9, 9, 9]},
}
let connected = false
globalThis.fetch = async address => {
  if (!connected) throw new Error("no connection")
  return {ok: true, json: async () => files[address.split("/").pop()]}
}
await import("./page.js")
const text = name => elements["." + name].textContent
const click = async name => {
  elements["." + name].onclick()
  await new Promise(resolve => setTimeout(resolve))
  return [text("status"), flow.dataset.bitsPerDim ?? null]
}
const before = await click("test")
connected = true
const after = await click("test")
const shares = elements[".classes"].children.map(row => row.textContent)
console.log(JSON.stringify({before, after, score: text("score"), shares}))
"""
RUNTIME = """
export const env = {wasm: {}}
export class Tensor { constructor(type, data, shape) { Object.assign(this, {type, data, shape}) } }
export const InferenceSession = {create: async () => ({run: async ({labels}) => ({
  log_prob: {data: Float32Array.from(labels.data, label => -label)},
  position_bits: {data: new Float32Array(labels.data.length * 192).fill(1)},
})})}
"""


def test_a_click_after_a_failed_one_loads_the_model_and_scores(tmp_path):
  shutil.copy(ROOT / "docs" / "browser" / "page.js", tmp_path)
  (tmp_path / "package.json").write_text('{"type": "module"}')
  (tmp_path / "ort.wasm.min.mjs").write_text(RUNTIME)
  (tmp_path / "test.mjs").write_text(PAGE)
  result = subprocess.run(["node", "test.mjs"], cwd=tmp_path, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout)
  assert found["before"] == ["This did not work: no connection", None]
  status, bits = found["after"]
  mean = math.log(sum(math.exp(-label) for label in range(10)) / 10)
  assert status == "" and bits == pytest.approx(-mean / 64 / math.log(2))
  assert found["score"] == f"{bits:.3f} bits/dim; 75 of 100 test digits take more." and found["shares"] == [*range(10)]

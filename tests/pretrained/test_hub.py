"""Presets of hubs of models: addresses, what is downloaded, the card; fakes of the hubs' libraries need no network."""

import fnmatch
import json
import shutil
import sys
import types

import numpy as np
import pytest
import safetensors

import flowpp_tf as fpp
from flowpp_tf import models
from flowpp_tf.io import budget
from flowpp_tf.io.model_folders import download
from support.models import perturbed, small_config
from support.programs import call, refusal
from support.refusing import refuses

GREY = small_config(image_shape=(4, 4, 1))


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory):
  """A model, and the folder of it that a user uploads, with a file that is no preset's."""
  model, folder = perturbed(GREY), tmp_path_factory.mktemp("hub") / "model"
  bound = {"num_samples": 1, "bits_per_dim": 1.5, "standard_error": 0.1}
  of_one = {"num_samples": 1, "bits_per_dim": 1.25, "standard_error": None}  # as of one image
  evaluation = {split: {"bounds": [b], "data": {"name": "digits"}} for split, b in (("test", bound), ("train", of_one))}
  models.save_preset(model, folder, "a model of mine", {"dataset": "digits"}, "cc-by-4.0", evaluation)
  (folder / "malware.py").write_text("")
  return model, folder


class Answered(Exception):
  """An error that a hub has answered with."""

  response = "404"


class HuggingFace(types.SimpleNamespace):
  """The two functions of `huggingface_hub` that are used, on a folder; `error` is what the hub says, or None."""

  def __init__(self, folder, cache, error=None):
    super().__init__(folder=folder, cache=cache, error=error, calls=[], revisions=set())

  def HfApi(self):
    return self

  def model_info(self, name, revision, files_metadata):
    self.calls.append((name, revision))
    if self.error is not None:
      raise self.error
    files = [types.SimpleNamespace(rfilename=path.name, size=path.stat().st_size) for path in self.folder.iterdir()]
    return types.SimpleNamespace(siblings=files)

  def snapshot_download(self, name, allow_patterns, revision, local_files_only=False):
    self.calls.append((name, revision))
    if local_files_only and revision not in self.revisions:
      raise FileNotFoundError("nothing was downloaded")
    self.cache.mkdir(exist_ok=True)
    self.revisions.add(revision)  # the library finds what it was asked for by the same name only
    for path in self.folder.iterdir() if not local_files_only else ():
      if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
        shutil.copy(path, self.cache)
    return str(self.cache)


@pytest.fixture
def hugging_face(uploaded, tmp_path, monkeypatch):
  fake = HuggingFace(uploaded[1], tmp_path / "cache")
  monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
  download.cache_clear()
  return fake


def test_a_preset_of_hugging_face_is_downloaded_once_and_is_the_model(uploaded, hugging_face):
  loaded = fpp.FlowPlusPlus.from_preset("hf://me/model@v1")
  for ours, theirs in zip(loaded.get_weights(), uploaded[0].get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))
  assert hugging_face.calls == [("me/model", "v1"), ("me/model", "v1")]
  begun = fpp.FlowPlusPlus(GREY)
  models.InitialWeights.find("hf://me/model@v1").load(begun)
  np.testing.assert_array_equal(begun.get_weights()[0], loaded.get_weights()[0])
  assert len(hugging_face.calls) == 2
  names = {path.name for path in hugging_face.cache.iterdir()}
  assert names == {"config.json", "preset.json", "best.weights.safetensors", "README.md"}


def test_programs_take_an_address(hugging_face, tmp_path):
  call("sample", "--preset=hf://me/model", "--n=2", cwd=tmp_path).ok()
  assert (tmp_path / "presets" / "me--model" / "samples_t1.0_s0.png").exists()


def test_what_was_downloaded_before_is_used_without_a_network(hugging_face):
  hugging_face.error = ConnectionError("no route to the hub")
  line = "^the preset 'hf://me/model' cannot be downloaded: ConnectionError: no route to the hub$"
  refuses(line, fpp.models.preset_folder, "hf://me/model")
  hugging_face.error = None
  folder = fpp.models.preset_folder("hf://me/model")
  download.cache_clear()
  hugging_face.error = ConnectionError("no route to the hub")
  assert fpp.models.preset_folder("hf://me/model") == folder
  download.cache_clear()
  hugging_face.error = Answered("404: there is no such model")  # it may have been withdrawn
  refuses("cannot be downloaded: Answered: 404: there is no such model$", fpp.models.preset_folder, "hf://me/model")


def test_a_preset_of_more_bytes_than_are_read_is_not_downloaded(hugging_face):
  with budget.use(budget.Budget(bytes_in=1000)), pytest.raises(budget.BudgetError, match="'hf://me/model' has .*KiB"):
    fpp.models.preset_folder("hf://me/model")
  assert not hugging_face.cache.exists()


def test_a_damaged_download_is_refused(hugging_face):
  folder = fpp.models.preset_folder("hf://me/model")
  with open(folder / "best.weights.safetensors", "ab") as file:
    file.write(b"a")
  refuses("preset 'hf://me/model' in .* is damaged", fpp.FlowPlusPlus.from_preset, "hf://me/model")


@pytest.mark.parametrize(
  "address, message",
  [
    ("hf://model", "must be hf://user/model or hf://user/model@revision, got 'hf://model'"),
    ("hf://me/../../etc", "must be hf://user/model or"),
    ("hf://me/other", "'hf://me/other' is not a preset: it has no preset.json"),
    ("s3://me/model", "unknown preset 's3://me/model'"),
  ],
)
def test_what_is_no_preset_of_a_hub_is_one_line(address, message, hugging_face, tmp_path):
  if "other" in address:
    hugging_face.folder = tmp_path
    (tmp_path / "config.json").touch()
  refuses(message, fpp.FlowPlusPlus.from_preset, address)


def test_the_card_is_one_of_hugging_face_and_the_weights_have_the_config(uploaded):
  library = pytest.importorskip("huggingface_hub")
  folder = uploaded[1]
  card = library.ModelCard.load(folder / "README.md")
  assert (card.data.license, card.data.library_name, card.data.metrics) == ("cc-by-4.0", "flowpp_tf", ["bits_per_dim"])
  assert "normalizing-flow" in card.data.tags
  result, of_one = card.data.eval_results
  assert of_one.metric_value == 1.25 and "| 1.2500" in card.text
  assert (result.dataset_name, result.metric_type, result.metric_value) == ("digits", "bits_per_dim", 1.5)
  assert json.loads((folder / "preset.json").read_text())["sha256"] in card.text
  with safetensors.safe_open(folder / "best.weights.safetensors", "np") as file:
    fields = json.loads(file.metadata()["flowpp_tf"])["config"]
  assert fpp.FlowPlusPlusConfig(**fields) == GREY


@pytest.mark.slow
def test_a_run_is_exported_as_a_preset_with_its_card(tmp_path):
  options = ("--preset=digits", "--format=preset", "--output=mine")
  result = call("export", *options, "--license=apache-2.0", cwd=tmp_path)
  assert (result.code, result.out) == (0, "wrote mine\n"), result.error
  text = (tmp_path / "mine" / "README.md").read_text()
  assert 'license: "apache-2.0"' in text and "| digits test | single-sample bound | 1.7523 +- 0.0173 |" in text
  assert "'mine' exists already; `overwrite` (--overwrite) replaces it" in refusal("export", *options, cwd=tmp_path)
  assert (tmp_path / "mine" / "best.weights.safetensors").is_file()
  (tmp_path / "file").touch()
  line = refusal("export", *options[:2], "--output=file/mine", cwd=tmp_path)
  assert "'file/mine' cannot be written: " in line

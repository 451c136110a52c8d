"""Presets: what ships is whole and is what its figures were measured with; a user's own have the same form."""

import json
import os
import re
import shutil
import types

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import data, evaluation, models, training
from flowpp_tf.demo.card import about
from flowpp_tf.evaluation.record import write_entry
from flowpp_tf.io.weights_file import weights_to_bytes
from flowpp_tf.programs import data_options
from flowpp_tf.programs.export import metadata_of_run
from support.comparing import assert_same
from support.marks import slow
from support.models import MINIMAL, TINY, perturbed, small_config, small_images
from support.programs import ROOT, call, refusal, run
from support.refusing import refuses
from support.training_steps import small_run

MOST_BYTES, MOST_BYTES_IN_ALL = 6e6, 20e6


@pytest.fixture(scope="module")
def own(tmp_path_factory):
  """A model, and the folder of the preset that it was saved to."""
  model = perturbed(TINY)
  folder = tmp_path_factory.mktemp("presets") / "mine"
  model.save_to_preset(folder, "a model of mine")
  return model, folder


def test_a_saved_preset_is_the_model_with_its_weights_in_float16(own):
  model, folder = own
  loaded = fpp.FlowPlusPlus.from_preset(folder)
  assert loaded.config == model.config
  for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))
  images = small_images(config=TINY)
  np.testing.assert_allclose(loaded.bits_per_dim(images, seed=0), model.bits_per_dim(images, seed=0), atol=0.01)


def test_saving_again_replaces_a_preset_and_nothing_else(own, tmp_path):
  model, folder = own
  copy = shutil.copytree(folder, tmp_path / "mine")
  write_entry(copy / "evaluation.json", "test", {"images": 1})
  model.save_to_preset(copy, "again")
  assert json.loads((copy / "preset.json").read_text())["description"] == "again"
  (copy / "notes.txt").write_text("mine")
  refuses("holds more than a preset, which would be lost: notes.txt$", model.save_to_preset, copy)
  assert (copy / "notes.txt").read_text() == "mine"
  (tmp_path / "data").mkdir()
  (tmp_path / "data" / "file").write_text("mine")
  refuses("holds more than a preset, which would be lost: file$", model.save_to_preset, tmp_path / "data")
  assert (tmp_path / "data" / "file").read_text() == "mine"


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
  model = fpp.FlowPlusPlus(TINY)
  for value, message in ((1e5, "do not fit float16"), (np.nan, "must be finite")):
    model.weights[0].assign(np.full(model.weights[0].shape, value))
    refuses(message, model.save_to_preset, tmp_path / "large")
  assert not (tmp_path / "large").exists()


def append(path):
  path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda folder: append(folder / "best.weights.safetensors"), "preset .* is damaged, or cannot be used: .*SHA-256"),
    (lambda folder: (folder / "best.weights.safetensors").unlink(), "cannot be read"),
    (lambda folder: (folder / "config.json").write_text("{}"), "preset .* is damaged, or cannot be used: 'model'"),
    (lambda folder: (folder / "preset.json").unlink(), "is not a preset: it has no preset.json"),
  ],
)
def test_a_damaged_preset_is_refused(own, tmp_path, change, message):
  folder = shutil.copytree(own[1], tmp_path / "damaged")
  change(folder)
  refuses(message, fpp.FlowPlusPlus.from_preset, folder)


def test_weights_of_a_preset_that_are_no_regular_file_are_not_waited_for(own, tmp_path):
  for name in ("pipe", "zero"):
    folder = shutil.copytree(own[1], tmp_path / name)
    weights = folder / "best.weights.safetensors"
    weights.unlink()
    os.mkfifo(weights) if name == "pipe" else weights.symlink_to("/dev/zero")
    reads = (fpp.FlowPlusPlus.from_preset, models.open_preset, models.InitialWeights.find, fpp.load)
    for read in (*reads, lambda folder: models.copy_preset(folder, tmp_path / "copy")):
      refuses("a named pipe or a device; expected a regular file", read, folder)


def test_a_preset_has_the_checksum_of_its_card(own, tmp_path):
  """Neither a checksum of the weights' own nor none is enough."""
  folder = shutil.copytree(own[1], tmp_path / "mine")
  (folder / "best.weights.safetensors").write_bytes(weights_to_bytes(fpp.FlowPlusPlus(TINY), dtype="float16"))
  # The second as of a run that was copied from a preset, the third to begin a run with.
  for read in (fpp.FlowPlusPlus.from_preset, fpp.load, models.InitialWeights.find):
    refuses("it is damaged: it has the SHA-256", read, folder)
  (folder / "preset.json").write_text('{"description": ""}')
  for read in (fpp.FlowPlusPlus.from_preset, fpp.load):
    refuses("has no `sha256` of its weights; --accept_unchecked", read, folder)
    read(folder, unchecked=True)
  refuses("has no `sha256` of its weights; --accept_unchecked", models.InitialWeights.find, folder)
  models.InitialWeights.find(folder, unchecked=True).load(fpp.FlowPlusPlus(TINY))


def test_a_preset_is_copied_loaded_and_begun_with(own, tmp_path):
  models.copy_preset(own[1], tmp_path / "copy")
  expected = fpp.FlowPlusPlus.from_preset(own[1]).get_weights()
  assert_same(fpp.load(tmp_path / "copy").get_weights(), expected)
  begun = fpp.FlowPlusPlus(TINY)
  models.InitialWeights.find(own[1]).load(begun)
  np.testing.assert_array_equal(begun.get_weights()[0], expected[0])
  assert training.Workdir(tmp_path / "copy").weights_info()["file"] == "best.weights.safetensors"


def test_initial_weights_are_those_that_were_found(own, tmp_path):
  folder = shutil.copytree(own[1], tmp_path / "mine")
  found = models.InitialWeights.find(folder)
  (folder / "best.weights.safetensors").write_bytes(weights_to_bytes(fpp.FlowPlusPlus(TINY)))
  refuses("have changed since the run began", found.load, fpp.FlowPlusPlus(TINY))
  (folder / "best.weights.safetensors").unlink()
  refuses("cannot be read", found.load, fpp.FlowPlusPlus(TINY))


def test_a_copy_of_a_preset_replaces_no_run(own, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "config.json").write_text('{"format": 2, "model": {}, "training": {}}')
  (run / "best.weights.safetensors").write_bytes(b"of the run")
  refuses("holds a run, whose files those of preset .* would replace", models.copy_preset, own[1], run)
  models.copy_preset(own[1], tmp_path / "copy")
  (tmp_path / "copy" / "preset.json").unlink()  # as if it had been stopped before
  models.copy_preset(own[1], tmp_path / "copy")
  (tmp_path / "copy" / "checkpoints" / "step_00000001").mkdir(parents=True)  # trained on
  refuses("holds a run", models.copy_preset, own[1], tmp_path / "copy")
  assert (run / "best.weights.safetensors").read_bytes() == b"of the run"


def test_a_preset_may_have_another_name(own):
  assert fpp.FlowPlusPlus.from_preset(own[1], name="mine").name == "mine"


def test_an_unknown_preset_is_an_error_that_names_those_that_come_close():
  refuses("unknown preset 'digit'; did you mean digits", fpp.FlowPlusPlus.from_preset, "digit")


# --- Those that ship ----------------------------------------------------------------------------


def test_each_has_a_card_and_they_are_small():
  assert {*fpp.presets()} == {"digits", "digits_by_class", "fashion_mnist", "photos"}
  sizes = []
  for name, description in fpp.presets().items():
    folder = models.preset_folder(name)
    assert description and (folder / "card.md").read_text().startswith(f"# {name}\n")
    sizes.append((folder / "best.weights.safetensors").stat().st_size)
  assert max(sizes) <= MOST_BYTES and sum(sizes) <= MOST_BYTES_IN_ALL


def provenance(name):
  """Return a preset's folder, what it was trained on, and its entry of the test split."""
  run_of_preset = training.Workdir(models.preset_folder(name))
  settings = json.loads(run_of_preset.config.read_text())["training"]
  return run_of_preset, settings, evaluation.read_record(run_of_preset.evaluation)["test"]


@pytest.mark.parametrize("name", fpp.presets())
def test_its_figures_are_those_of_its_weights(name):
  run_of_preset, _, record = provenance(name)
  assert record["checkpoint"] == run_of_preset.weights_info()
  assert record["checkpoint"]["sha256"] == json.loads((run_of_preset.path / "preset.json").read_text())["sha256"]
  card = (run_of_preset.path / "card.md").read_text()
  for bound in record["bounds"]:
    assert f"{bound['bits_per_dim']:.4f}" in card
  for codec in record["codecs"]:
    assert f"{codec['each']:.3f}" in card


@pytest.mark.parametrize("name", fpp.presets())
def test_all_its_files_name_the_data_that_it_was_trained_on(name):
  run_of_preset, settings, record = provenance(name)
  trained_on = settings["fingerprint"]
  assert trained_on["digest"] == trained_on["sha256"][:12]
  assert record["data"]["digest"] == record["data"]["sha256"][:12]
  # The last stretch of digits_by_class is on the part of the data that it is tested on; photos began with fewer.
  parts = {"digits_by_class": {record["data"]["digest"]}, "photos": {"f9094955ede3"}}.get(name, set())
  assert {row["data"] for row in run_of_preset.rows()} == {trained_on["digest"]} | parts
  assert json.loads(run_of_preset.typicality.read_text())["key"]["data"] == trained_on["digest"]
  assert not {*settings} & {"trained_on", "data", "trained"}  # `fingerprint` is the only field that says it
  card = (run_of_preset.path / "card.md").read_text()
  assert re.findall(r"fingerprint ([0-9a-f]{12})", card) == [trained_on["digest"]]
  for count in trained_on["splits"].values() if record["data"] == trained_on else ():
    assert f"{count:,}" in card

  metadata = metadata_of_run(run_of_preset, settings)  # of a SavedModel, too
  engine = types.SimpleNamespace(parameters=1, config=fpp.FlowPlusPlusConfig())
  page = about(name, engine, metadata)
  assert f"Trained on {data.describe(trained_on)}  \n" in page
  assert (f"test images of {data.describe(record['data'])}: " in page) == (record["data"] != trained_on)


# The images of `fashion_mnist` are not in the package.
@pytest.mark.parametrize("name", sorted({*fpp.presets()} - {"fashion_mnist"}))
def test_a_fingerprint_is_that_of_the_data_and_other_data_bring_a_warning(name, capsys):
  _, settings, record = provenance(name)
  config = fpp.FlowPlusPlusConfig(**json.loads((models.preset_folder(name) / "config.json").read_text())["model"])
  dataset = data_options.load_data_of_run(settings, config, {})
  fingerprint = dataset.fingerprint()
  assert fingerprint == record["data"]
  trained_on, this = data.describe(settings["fingerprint"]), data.describe(fingerprint)  # the package has fewer images
  assert f"the model was trained on {trained_on}; this is {this}" in capsys.readouterr().err
  assert settings["fingerprint"]["sha256"] != fingerprint["sha256"]
  held_out = lambda of: {split: of["splits"][split] for split in ("validation", "test")}
  assert held_out(settings["fingerprint"]) == held_out(fingerprint)
  data_options.load_data_of_run({**settings, "fingerprint": fingerprint}, config, {})
  assert capsys.readouterr().err == ""


# The others' data are not in the package.
@pytest.mark.parametrize("name", ["digits", *map(slow, ("digits_by_class", "photos"))])
def test_bits_per_dim_are_near_those_of_the_card(name):
  model, (*_, record) = fpp.FlowPlusPlus.from_preset(name), provenance(name)
  dataset = data.load_dataset(record["data"]["name"], labels=model.config.num_classes > 0)
  every = slice(None, None, len(dataset.test) // 60)
  given = {"labels": dataset.labels["test"][every]} if dataset.labels else None
  found = evaluation.evaluate_bits_per_dim(model, dataset.test[every], 1, batch_size=20, conditioning=given)
  expected = record["bounds"][0]
  error = np.hypot(found.best.standard_error, expected["standard_error"])
  assert abs(found.best.bits_per_dim - expected["bits_per_dim"]) < 4 * error


@pytest.mark.slow
def test_programs_take_a_preset_and_leave_their_output_in_its_folder(tmp_path):
  run("sample", "--preset=digits", "--n=4", cwd=tmp_path).ok()
  assert (tmp_path / "presets/digits/samples_t1.0_s0.png").exists()
  (tmp_path / "presets/digits/best.weights.safetensors").write_bytes(b"")  # is copied again
  result = call("evaluate", "--preset=digits", "--limit=20", cwd=tmp_path)
  assert result.code == 0 and result.out.startswith("digits test, data "), result.error
  record = json.loads((tmp_path / "presets/digits/evaluation.json").read_text())
  assert record["test[:20]"]["images"] == 20 and record["test"]["images"] == 180
  shipped = (models.preset_folder("digits") / "evaluation.json").read_text()  # is not written to
  assert json.loads(shipped)["test"]["images"] == 180


@pytest.mark.slow
def test_a_preset_is_exported_with_its_figures(tmp_path):
  call("export", "--preset=digits", cwd=tmp_path).ok()
  loaded = fpp.load_saved_model(tmp_path / "presets/digits/saved_model/1")
  assert loaded.metadata["evaluation"]["test"]["images"] == 180
  assert loaded.metadata["data"]["digest"] == "8f19391c6622"


@pytest.mark.docs
def test_the_page_names_the_card_of_each_preset():
  page = (ROOT / "docs" / "presets.md").read_text()
  for name in fpp.presets():
    assert f"../flowpp_tf/pretrained/{name}/card.md" in page


@pytest.mark.parametrize(
  "flags, message",
  [
    ((), "give the model as --workdir or as --preset, one of them"),
    (("--preset=digits", "--workdir=x"), "give the model as --workdir or as --preset, one of them"),
    (("--preset=clothes",), "unknown preset 'clothes'"),
  ],
)
def test_a_program_without_a_model_says_so(tmp_path, flags, message):
  assert message in refusal("sample", *flags, cwd=tmp_path)


# --- Training that begins with trained weights --------------------------------------------------


def train_from(source, workdir, config=TINY):
  lines, begin = [], models.InitialWeights.find(str(source))
  settings = dict(steps=1, batch_size=4, learning_rate=1e-9, init_batch_size=4)
  run, _ = small_run(workdir, config, log_fn=lines.append, init_from=begin, **settings)
  return run.load()[0], lines


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_a_preset_a_run_or_the_release(own, tmp_path):
  model, folder = own
  rounded = [w.astype(np.float16).astype(np.float32) for w in model.get_weights()]
  first, lines = train_from(folder, tmp_path / "first")
  assert any(line.startswith("begins with the weights of ") for line in lines)
  second, _ = train_from(tmp_path / "first", tmp_path / "second")
  fpp.export_official_weights(model, tmp_path / "release.npz")
  third, _ = train_from(tmp_path / "release.npz", tmp_path / "third")
  for found, expected in ((first, rounded), (second, rounded), (third, model.get_weights())):
    assert_same(found.get_weights(), expected, atol=1e-6)
  refuses("holds another run: init_from is", train_from, tmp_path / "release.npz", tmp_path / "first")


def test_weights_of_another_architecture_and_what_is_not_there_are_refused(own, tmp_path):
  refuses("do not fit the model", train_from, own[1], tmp_path / "other", small_config(TINY, filters=6))
  for source, message in (
    ("missing.npz", "cannot be read"),
    (tmp_path, "best.weights.safetensors' cannot be read"),
    ("dogits", "unknown `init_from` .* did you mean digits"),
  ):
    refuses(message, models.InitialWeights.find, str(source))


def test_for_images_of_another_size_weights_of_each_position_keep_their_edges(tmp_path):
  source = perturbed(MINIMAL, image_shape=(4, 8, 2))  # with 4 rows of 4 columns of pairs
  source.save_to_preset(tmp_path / "mine", "for images of 4x8")
  model = fpp.FlowPlusPlus(small_config(source.config, image_shape=(7, 4, 2)))
  models.InitialWeights.find(tmp_path / "mine").load(model)
  for found, weight in zip(model.weights, source.weights, strict=True):
    expected = weight.numpy().astype(np.float16)
    if expected.shape[:2] == (4, 4):
      expected = expected[[0, 1, 2, 2, 2, 2, 3]][:, [0, 3]]
    np.testing.assert_array_equal(found, expected, err_msg=weight.path)

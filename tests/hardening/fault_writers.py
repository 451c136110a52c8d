"""Everything that writes files, as rows for test_faults.py: its beginning, its work, what is read later."""

from collections.abc import Callable
import csv
import dataclasses
import functools
import io
import json
import pathlib
import shutil
import tempfile
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import compression, data, evaluation, training
from flowpp_tf.compression.files import pictures as picture_files
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import cache, load_dataset
from flowpp_tf.evaluation.pictures import plot_curves
from flowpp_tf.evaluation.record import write_record
from flowpp_tf.exporting import export
from flowpp_tf.io.files import check_digests, create_array, replace_directory, replace_file, write_file
from flowpp_tf.io.weights_file import read_weights
from flowpp_tf.programs import outputs
from flowpp_tf.programs.decompress import codec_model_name, save_codec_model
from flowpp_tf.training.checkpoints import checkpoint_folders, read_manifest
from support import models
from support.archives import grey_codec, grey_images, grey_model
from support.files import contents
from support.models import MINIMAL, perturbed, small_config, small_images
from support.programs import call
from support.training_steps import small_data, small_run, without_times

# Archives of it are made in a tenth of a second.
GREY = small_config(models.GREY, dequantization="uniform", coupling="affine")
HIDDEN = (".tmp.", ".unfinished.", ".old.")  # beginnings of names that nothing reads


@dataclasses.dataclass(frozen=True)
class Writer:
  """Something that writes files.

  Attributes:
    name: of the row.
    prepare: makes the files that are there before, in an empty folder.
    work: writes; called again after a fault, it ends as it does without one.
    look: what is read later, by name, of a folder.
    between: whether states between the first and the last are right, too: those that the undisturbed work goes through.
    slow: whether a call takes seconds.
  """

  name: str
  prepare: Callable[[pathlib.Path], Any]
  work: Callable[[pathlib.Path], Any]
  look: Callable[[pathlib.Path], dict[str, Any]]
  between: bool = False
  slow: bool = False


class ProgramFailed(InputError):
  """Raised for a program that ended with another exit code than 0, and one line that says why."""


def program(name, *arguments, folder):
  """Call a program; what it wrote must be no more than one error line, and one exactly where it failed."""
  result = call(name, *arguments, cwd=folder)
  errors = [line for line in result.error.splitlines() if ": error: " in line]
  assert "Traceback" not in result.error, result.error
  assert len(errors) == (result.code != 0), result
  assert result.code in (0, 1, 2, 4), result
  if result.code:
    raise ProgramFailed(errors[0])
  return result


def visible(folder, below=""):
  """The files below a folder that something reads: names that begin with `HIDDEN` are left out."""
  return {
    name: content
    for name, content in contents(pathlib.Path(folder) / below).items()
    if not any(part.startswith(HIDDEN) for part in name.split("/"))
  }


# --- Models, made once ------------------------------------------------------------------------------


@functools.cache
def minimal(seed=0):
  return perturbed(seed=seed)


# --- Files ------------------------------------------------------------------------------------------


def _two_files(folder):
  (folder / "a").write_text("old")


def _write_files(folder):
  write_file(folder / "a", "new" * 1000)

  def write(temporary):
    with open(temporary, "w") as file:
      for i in range(3):
        file.write(f"{i}" * 10_000)

  replace_file(folder / "b", write)


def _write_directory(folder):
  def write(temporary):
    (temporary / "inside").mkdir()
    (temporary / "a").write_text("new")
    (temporary / "inside" / "b").write_text("new")

  replace_directory(folder / "parent" / "directory", write)


def _old_directory(folder):
  (folder / "parent" / "directory").mkdir(parents=True)
  (folder / "parent" / "directory" / "a").write_text("old")


def _whole(below):
  """A look at a directory: one value for all of its files, so that a mixture of two is neither."""
  return lambda folder: {below: visible(folder, below) or None}


def _write_array(folder):
  def write(temporary):
    array = create_array(temporary, np.float32, (100, 10))
    array[:] = 1
    array.flush()

  replace_file(folder / "a.npy", write)


# --- A run --------------------------------------------------------------------------------------------

_TRAINING = training.TrainingConfig(steps=2, batch_size=4)


def _store(folder):
  """What a run of two validations writes, without the run."""
  workdir = training.Workdir(folder / "run")
  with workdir.sole_owner():
    identity = workdir.open(MINIMAL, {**_TRAINING.identity(), "fingerprint": {"sha256": "0" * 64}})
    state = tf.Variable(0, dtype=tf.int64)
    checkpoints = workdir.new_checkpoints(1, identity, state=state)
    restored = checkpoints.restore()
    workdir.recover(restored, int(state.numpy()))
    for step in range(int(state.numpy()) + 1, 3):
      if step == 1:
        workdir.save_best(minimal(), step, 3.0)
      workdir.add_row({"step": step, "val_bits_per_dim": 4.0 - step})
      state.assign(step)
      checkpoints.save(step)


def _look_at_store(folder):
  workdir = training.Workdir(folder / "run")
  found = {"checkpoint": None, "weights": None, "rows": None, "config": None}
  whole = [read_manifest(path)["step"] for path in checkpoint_folders(workdir.checkpoints)]  # if it has its name
  found["checkpoint"] = max(whole, default=None)
  if workdir.config.exists():
    found["config"] = json.loads(workdir.config.read_text())["model"]
  if workdir.best_weights.exists():
    found["weights"] = [array.tobytes() for array in _arrays_of(read_weights(workdir.best_weights))]
  found["rows"] = without_times(workdir.rows())
  return found


def _arrays_of(weights):
  return [array for _, array in sorted(weights.arrays.items())]


def _train(folder, steps=2):
  dataset = small_data(sizes=(8, 4, 4))
  small_run(folder / "run", dataset=dataset, steps=steps, batch_size=4, checkpoint_every=1)


@functools.cache
def _run_of_one_step():
  """The files of a run after its first step, by name."""
  with tempfile.TemporaryDirectory() as folder:
    _train(pathlib.Path(folder), steps=1)
    return contents(folder)


def _begun(folder):
  for name, content in _run_of_one_step().items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


# --- Presets and the cache ------------------------------------------------------------------------------


def _save_preset(folder, seed=1, description="new"):
  minimal(seed).save_to_preset(folder / "mine", description)


_saved_preset = functools.partial(_save_preset, seed=0, description="old")


def _look_at_preset(folder):
  mine = folder / "mine"
  if not mine.exists():
    return {"preset": None}
  assert {*visible(mine)} == {"README.md", "best.weights.safetensors", "config.json", "preset.json"}
  fields, _, weights = fpp.pretrained.presets.open_preset(mine)
  description = json.loads((mine / "preset.json").read_text())["description"]
  return {"preset": (fields, description, [array.tobytes() for array in _arrays_of(weights)])}


def _copy_preset(folder):
  fpp.models.copy_preset("digits", folder / "presets" / "digits")


def _older_copy(folder):
  _copy_preset(folder)
  for name in ("card.md", "config.json"):
    (folder / "presets" / "digits" / name).write_text("{}")


def _folder_of_images(folder):
  (folder / "images").mkdir()
  for i in range(12):
    Image.fromarray(np.full([8, 8], 10 * i, np.uint8)).save(folder / "images" / f"{i}.png")


def _decode_folder(folder):
  with mock.patch.object(cache, "_IN_MEMORY", 0):
    found = load_dataset(f"folder:{folder / 'images'}", image_shape=(8, 8, 1), cache_dir=folder / "cache")
  assert sorted(int(image[0, 0, 0]) for split in data.SPLITS for image in found.split(split)) == [*range(0, 120, 10)]


# --- Measurements and pictures -----------------------------------------------------------------------------

_BOUND = evaluation.BitsPerDim(4, (evaluation.likelihood.Bound(1, 3.0, 0.1),), {})
_DIGEST = {"sha256": "0" * 64}


def _record(folder, split="test"):
  write_record(folder / "evaluation.json", split, _BOUND, _DIGEST, _DIGEST, seed=0)


def _typicality(folder, mean=3.0, weights="new"):
  evaluation.ValidationStatistics(4, mean, 0.1).save(folder / "typicality.json", {"weights": weights})


def _curves(folder):
  rows = [{"step": i, "bits_per_dim": 4.0 - i, "val_bits_per_dim": 4.1 - i} for i in range(3)]
  outputs.replace(folder / "curves.png", lambda path: plot_curves(rows, path))


def _pictures_are_whole(folder):
  for path in folder.glob("[!.]*.png"):
    with Image.open(path) as image:
      image.load()
  return visible(folder)


def _measure(folder):
  evaluation.evaluate_bits_per_dim(minimal(), small_images(4, MINIMAL), 2, partial=folder)


# --- Archives ------------------------------------------------------------------------------------------------


def _archive_of_arrays(folder):
  write_file(folder / "model.npz", grey_codec().model.to_bytes())
  with open(folder / "a.fpp", "wb") as file:
    compression.compress_to(file, grey_codec(), grey_images(20), segment_images=8)


def _run_and_pictures(folder):
  grey_model().save_to_preset(folder / "run", "a model")
  (folder / "in").mkdir()
  for i, image in enumerate(grey_images(4)):
    Image.fromarray(image[..., 0]).save(folder / "in" / f"{i}.png")
  (folder / "in" / "text.txt").write_text("no image")


@functools.cache
def _archive_of_files():
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    _run_and_pictures(folder)
    program("compress", "--workdir=run", "--images=in", "--output=a.fpp", folder=folder)
    (model,) = (folder / "run").glob("codec_model.*.npz")
    return (folder / "a.fpp").read_bytes(), model.read_bytes()


def _files_to_decompress(folder):
  archive, model = _archive_of_files()
  (folder / "a.fpp").write_bytes(archive)
  (folder / "model.npz").write_bytes(model)


def _compress(folder):
  (folder / "a.fpp").unlink(missing_ok=True)  # the program does not replace it
  program("compress", "--workdir=run", "--images=in", "--output=a.fpp", "--test", folder=folder)


def _decompress(folder):
  shutil.rmtree(folder / "out", ignore_errors=True)  # the program does not add to a folder
  program("decompress", "a.fpp", "--model=model.npz", "--output=out", folder=folder)


def _look_at_folder(folder):
  """Without out.partial, which is not the output and is completed."""
  return {name: content for name, content in visible(folder).items() if not name.startswith("out.partial")}


def _decompress_array(folder):
  (folder / "out.npy").unlink(missing_ok=True)
  program("decompress", "a.fpp", "--model=model.npz", "--output=out.npy", folder=folder)


def _look_at_archive(folder):
  found = {name: content for name, content in visible(folder).items() if name == "a.fpp" or ".npz" in name}
  if "a.fpp" in found:  # whole: everything comes back
    reader = compression.ArchiveReader(io.BytesIO(found["a.fpp"]))
    items = [*picture_files.read_pictures(reader, compression.Codec(_preset_codec()))]
    found["a.fpp"] = [item.name for item in items if isinstance(item, picture_files.ImageFile)]
    assert len(items) == 5 == len(found["a.fpp"]), items
  return found


@functools.cache
def _preset_codec():
  return compression.CodecModel.from_bytes(_archive_of_files()[1])


def _codec_model(folder):
  save_codec_model(folder, grey_codec().model)
  if not (folder / codec_model_name(grey_codec().model.sha256())).exists():
    raise InputError("it was not written, with a warning")


# --- Exports and other programs ----------------------------------------------------------------------------


@functools.cache
def _saved_model():
  """The files of a SavedModel, by name."""
  with tempfile.TemporaryDirectory() as folder:
    export(minimal(), pathlib.Path(folder) / "1")
    return contents(pathlib.Path(folder) / "1")


def _export(folder, description="new"):
  """With files that TensorFlow wrote before: its writers are C++, and take seconds."""
  files = _saved_model()

  def save(module, path, **more):
    for name, content in files.items():
      if "digests.json" not in name:
        (pathlib.Path(path) / name).parent.mkdir(parents=True, exist_ok=True)
        (pathlib.Path(path) / name).write_bytes(content)
    (pathlib.Path(path) / "assets" / "metadata.json").write_text(json.dumps({"about": description, "max_batch": 2}))

  with mock.patch.object(tf.saved_model, "save", save):
    export(minimal(), folder / "exported" / "1", overwrite=True)


def _look_at_export(folder):
  path = folder / "exported" / "1"
  if path.exists():
    check_digests(path)
    assert (path / "assets.extra" / "digests.json").exists()
  return _whole("exported/1")(folder)


def _of_grey(folder):
  fpp.pretrained.presets.save_preset(grey_model(), folder / "run", "a model", {"dataset": "npz:data.npz"})
  np.savez(folder / "data.npz", **{split: grey_images(4, i) for i, split in enumerate(data.SPLITS)})


def _of_run(command):
  """The work of a program, whose command line gets the run."""
  name, *arguments = command.split()
  return lambda folder: program(name, "--workdir=run", *arguments, folder=folder)


_SAMPLE = "sample --n=2 --output=s.png --npy=s.npy"
_EVALUATE = "evaluate --dataset=npz:data.npz --num_samples=2"
_SCORE = "score --dataset=npz:data.npz --num_samples=1 --typical_images=2 --output=s.csv"


def _look_at_scores(folder):
  """Without typicality, which is left out, with a warning, where the data of the run cannot be read."""
  found = visible(folder)
  if "s.csv" in found:
    rows = csv.DictReader(io.StringIO(found["s.csv"].decode()))
    found["s.csv"] = [{name: value for name, value in row.items() if name != "typicality"} for row in rows]
  return found


_nothing = lambda folder: None

WRITERS = [
  Writer("write_file, replace_file", _two_files, _write_files, visible),
  Writer("replace_directory, new", _nothing, _write_directory, _whole("parent/directory")),
  Writer("replace_directory, again", _old_directory, _write_directory, _whole("parent/directory")),
  Writer("create_array", _nothing, _write_array, visible),
  Writer("store of a run", _nothing, _store, _look_at_store, between=True),
  Writer("preset, new", _nothing, _save_preset, _look_at_preset),
  Writer("preset, again", _saved_preset, _save_preset, _look_at_preset, slow=True),
  Writer("copy of a preset, new", _nothing, _copy_preset, visible),
  Writer("copy of a preset, again", _older_copy, _copy_preset, visible),
  Writer("cache of data", _folder_of_images, _decode_folder, _whole("cache")),
  Writer("evaluation.json", functools.partial(_record, split="validation"), _record, visible),
  Writer("typicality.json", functools.partial(_typicality, mean=2.0, weights="old"), _typicality, visible),
  Writer("curves.png", _nothing, _curves, _pictures_are_whole, slow=True),
  Writer("codec model", _nothing, _codec_model, visible),
  Writer("decompress to .npy", _archive_of_arrays, _decompress_array, visible),
  Writer("decompress to a folder", _files_to_decompress, _decompress, _look_at_folder),
  Writer("export", _nothing, _export, _look_at_export),
  Writer("export, again", functools.partial(_export, description="old"), _export, _look_at_export),
  Writer("compress", _run_and_pictures, _compress, _look_at_archive, slow=True),
  Writer("partial evaluation", _nothing, _measure, visible, between=True, slow=True),
  Writer("sample", _of_grey, _of_run(_SAMPLE), visible, slow=True),
  Writer("evaluate", _of_grey, _of_run(_EVALUATE), visible, between=True, slow=True),
  Writer("score", _of_grey, _of_run(_SCORE), _look_at_scores, slow=True),
  Writer("train", _nothing, _train, _look_at_store, between=True, slow=True),
  Writer("resume", _begun, _train, _look_at_store, between=True, slow=True),
]

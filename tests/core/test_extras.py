"""What runs without the packages of extras, and the one line for what does not."""

import sys

import pytest

import flowpp_tf as fpp
from flowpp_tf import data, evaluation
from flowpp_tf.io.deep_image import read_deep
from support.models import MINIMAL, small_images
from support.programs import ROOT, call, named_extras, run
from support.training_steps import small_run

# In a process where no package of an extra can be imported, as after `pip install flowpp_tf`.
USED = """
import sys
class Blocked:
  def find_spec(self, name, *_):
    if name.partition(".")[0] in BLOCKED:
      raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Blocked())
import flowpp_tf as fpp
from flowpp_tf import evaluation
model = fpp.FlowPlusPlus.from_preset("digits")
images = model.sample(2, seed=0)
evaluation.image_grid(images, levels=17)
evaluation.nearest_neighbours(images.numpy(), images.numpy(), 1)
fpp.export
print(images.shape, model.bits_per_dim(images, seed=0).shape)
"""


@pytest.mark.slow
def test_a_preset_samples_and_scores_without_any_extra():
  blocked = sorted({package for package, _ in named_extras()})
  result = run(["-c", f"BLOCKED = {blocked}{USED}"], cwd=ROOT)
  assert result.out == "(2, 8, 8, 1) (2,)\n", result.error


def _board(folder):
  small_run(folder, steps=1, tensorboard=("scalars", "samples"))


def _model():
  return fpp.FlowPlusPlus(MINIMAL)


# What needs a package, by what the message calls it.
LIBRARY = [
  ("sklearn", "the data set 'digits'", lambda folder: data.load_dataset("digits")),
  ("skimage", "the data set 'photos'", lambda folder: data.load_dataset("photos")),
  ("tensorflow_datasets", "the data set 'cifar10'", lambda folder: data.load_dataset("cifar10")),
  ("matplotlib", "a plot of curves", lambda folder: evaluation.plot_curves([], folder / "curves.png")),
  ("tensorboard", "`tensorboard` scalars, samples", _board),
  ("imagecodecs", "the size of an image in other codecs", lambda folder: evaluation.measure_codecs(small_images(1))),
  ("tifffile", "reading TIFF files of 16 bits", lambda folder: read_deep(b"II*\0", 1)),
  ("astropy", "reading FITS files", lambda folder: read_deep(b"SIMPLE  =", 1)),
  ("elpv_dataset", "the data set 'elpv'", lambda folder: data.load_dataset("elpv")),
  ("galsim", "the data set 'sky16'", lambda folder: data.load_dataset("sky16", cache_dir=folder)),
  ("constriction", "compression", lambda folder: fpp.compress(_model(), small_images(1, MINIMAL))),
  ("huggingface_hub", "the preset 'hf://me/model'", lambda folder: fpp.FlowPlusPlus.from_preset("hf://me/model")),
  ("onnx", "the format 'onnx'", lambda folder: fpp.export(_model(), folder / "onnx", "onnx")),
]
PROGRAMS = [
  ("sklearn", "the data set 'digits'", ["evaluate", "--preset=digits"]),
  ("matplotlib", "the plot of a run's curves", ["train", "--config=digits"]),
  ("tensorboard", "--tensorboard=scalars,samples", ["train", "--config=digits"]),
  ("imagecodecs", "--codecs", ["evaluate", "--preset=digits", "--codecs"]),
  ("constriction", "compression", ["compress", "--preset=digits", "--images=a.png", "--output=a.fpp"]),
  ("onnx", "--format=onnx", ["export", "--preset=digits", "--format=onnx"]),
  ("gradio", "the page", ["demo", "--preset=digits"]),
]


@pytest.fixture
def block(monkeypatch):
  """A function that lets a package be missing, with the line of what needs it."""

  def block(package, what):
    for name in [package, *sys.modules]:
      if name.partition(".")[0] == package:
        monkeypatch.setitem(sys.modules, name, None)
    extra = dict(named_extras())[package]
    return f"{what} needs {package}, which is not installed: pip install 'flowpp_tf[{extra}]'"

  return block


@pytest.mark.parametrize("package, what, use", LIBRARY, ids=[row[0] for row in LIBRARY])
def test_a_function_without_its_package_is_one_line_that_names_the_extra(package, what, use, block, tmp_path):
  line = block(package, what)
  with pytest.raises(fpp.InputError) as caught:
    use(tmp_path)
  assert str(caught.value) == line


@pytest.mark.parametrize("package, what, command", PROGRAMS, ids=["-".join(row[2][:1] + [row[0]]) for row in PROGRAMS])
def test_a_program_without_its_package_is_one_line_that_names_the_extra(package, what, command, block, tmp_path):
  line = block(package, what)
  (tmp_path / "a.png").touch()
  result = call(*command, cwd=tmp_path)
  assert (result.code, result.error.splitlines()[-1]) == (2, f"{command[0]}: error: {line}")


def test_a_run_without_a_directory_writes_no_event_files(monkeypatch):
  """So that `fpp.train` of an array needs no extra: nobody could read them."""
  trained = []
  monkeypatch.setattr("flowpp_tf.training.train_model.run_training", lambda *given, **_: trained.append(given[1]))
  with pytest.raises(fpp.InputError):  # there is nothing to load
    fpp.train(small_images(60, MINIMAL), MINIMAL, steps=1, verbose=False)
  assert trained[0].tensorboard == ()

"""docs/flow_in_one_file.py is Flow++ with nothing of the package imported: with its weights, it computes the same."""

import sys

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from support.models import SMALL, perturb, small_config, small_images
from support.programs import ROOT, load_file

pytestmark = pytest.mark.docs

PATH = ROOT / "docs" / "flow_in_one_file.py"
CONFIG = small_config(SMALL, dtype="float64", blocks=2, context_blocks=2)


@pytest.fixture(scope="module")
def page():
  """The page as a module, in float64."""
  module = load_file(PATH)
  module.DTYPE = tf.float64
  return module


@pytest.fixture
def models(page):
  """The same model in both, with weights that are not those of the start."""
  theirs = perturb(fpp.FlowPlusPlus(CONFIG))
  network = {name: getattr(CONFIG, name) for name in ("components", "heads", "dropout")}
  part = lambda prefix: {name: getattr(CONFIG, prefix + name) for name in ("structure", "filters", "blocks")} | network
  context = (CONFIG.context_channels, CONFIG.context_blocks)
  ours = page.FlowPlusPlus(CONFIG.image_shape, CONFIG.levels, part(""), part("dequant_"), context)
  for variable, value in paired(page, ours, theirs):
    variable.assign(np.reshape(value, variable.shape))
  return ours, theirs


def paired(page, ours, theirs):
  """The variables of the page's model, each with the one of the package's: the names of their attributes agree."""
  found = []

  def walk(a, b):
    if isinstance(a, tf.Variable):
      found.append((a, b))
    elif isinstance(a, tuple):  # the layers of a block
      for name, part in zip(("conv", "conv_norm", "mixer", "mixer_norm"), a, strict=True):
        walk(part, getattr(b, name))
    elif isinstance(a, list):
      for part, other in zip(a, b, strict=True):
        walk(part, other)
    elif isinstance(a, tf.Module):
      for name, part in vars(a).items():
        if isinstance(part, (tf.Variable, tf.Module, list)) and not name.startswith("_"):
          walk(part, getattr(b, name))

  def walk_flow(flow, coupling_flow):
    bijectors = [bijector for _, stage in flow.stages for bijector in stage]
    for i, step in enumerate(coupling_flow.steps):
      act_norm, conv, coupling = bijectors[3 * i : 3 * i + 3]
      for part in (act_norm, conv, coupling):
        walk(part, step)
    assert len(bijectors) == 3 * len(coupling_flow.steps)

  walk(ours.context_conv, theirs.dequantizer.context_net.input_conv)
  walk(ours.context_blocks, [block.conv for block in theirs.dequantizer.context_net.blocks])
  walk_flow(ours.dequantizer, theirs.dequantizer.coupling_flow)
  walk_flow(ours.flow, theirs.coupling_flow)
  assert len(found) == len(ours.variables) == len(theirs.trainable_weights)
  return found


def test_it_has_at_most_300_lines_and_imports_nothing_of_the_package():
  text = PATH.read_text()
  assert len(text.splitlines()) <= 300
  assert "import flowpp_tf" not in text and "from flowpp_tf" not in text


def test_it_gives_the_bound_and_the_samples_of_the_package(models):
  ours, theirs = models
  images = small_images()
  noise = np.random.RandomState(0).randn(*images.shape)
  dims = images[0].size
  np.testing.assert_allclose(
    ours.log_prob_bound(images, tf.constant(noise)) / dims,
    theirs.log_prob_bound(images, noise=noise) / dims,
    rtol=0,
    atol=1e-12,
  )
  latents = theirs.sample_latents(100, seed=0)
  np.testing.assert_array_equal(ours.decode(latents), theirs.decode(latents))


def test_it_initialises_as_the_package_does(page, models):
  ours, theirs = models
  images = small_images(64)
  noise = np.random.RandomState(0).randn(*images.shape)
  theirs.initialize(images, noise=noise)
  ours.log_prob_bound(images, tf.constant(noise), "initialize")
  for variable, value in paired(page, ours, theirs):
    np.testing.assert_allclose(variable, np.reshape(value, variable.shape), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_its_program_trains(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", [str(PATH), "3"])
  model, main, program = PATH.read_text().partition('if __name__ == "__main__":')
  for long, short in (("samples=64", "samples=2"), ("columns:4", "columns:1"), ("columns:3", "columns:1")):
    assert long in program
    program = program.replace(long, short)
  exec(compile(model + main + program, str(PATH), "exec"), {"__name__": "__main__"})
  out = capsys.readouterr().out
  lines = out.splitlines()
  assert lines[0].startswith("step 3: ") and float(lines[0].split()[2]) < 3.5 < np.log2(17)
  assert lines[1].startswith("new digits: ") and [len(line) for line in lines[2:]] == [4 * 8 * 2] * 8

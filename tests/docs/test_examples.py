"""The examples run, small: densities integrate to 1, and what they compute is right where it is known exactly."""

import collections
import contextlib
import io
import itertools
import plistlib
import re
import runpy
import sys
import tarfile
import types

import keras
import numpy as np
from PIL import ExifTags, Image
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.config import get_config
from flowpp_tf.data import load_dataset
from support import hostile_files
from support.models import SMALL, perturb, small_config
from support.programs import ROOT, _messages_of_a_process, _own_flags, example, run

pytestmark = [pytest.mark.slow, pytest.mark.docs]


def test_tabular_trains_densities_of_equal_size_that_integrate_to_one(monkeypatch):
  tabular = example("tabular", xla=False, steps=40, every=20, batch=64)
  monkeypatch.setattr(tabular, "LAYERS", 1)
  data = tabular.standardised(tabular.two_moons())
  axis = np.linspace(-6, 6, 201, dtype=np.float32)
  grid = tf.constant(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
  sizes = []
  for make in tabular.MODELS.values():
    experiment = tabular.Experiment(make, data)
    validation, log_prob, size, _ = experiment.run(rate=1e-2, seed=0)
    # It fails for MAF if an optimizer ignores the masks.
    np.testing.assert_allclose(np.sum(np.exp(experiment._log_prob(grid))) * (axis[1] - axis[0]) ** 2, 1, atol=0.01)
    np.testing.assert_allclose(np.mean(log_prob), validation, atol=0.1)
    assert validation > -2.8  # a standard normal distribution: -2.84
    sizes.append(size)
  np.testing.assert_allclose(sizes, sizes[0], rtol=0.1)


def test_the_data_of_tabular_are_split_and_finite():
  tabular = example("tabular")
  for name, load in tabular.DATA.items():
    train, validation, test = tabular.standardised(load())
    assert train.shape[1] == validation.shape[1] == test.shape[1] == int(name[-3 if name[-4] == " " else -4 : -2])
    assert min(len(train), len(validation), len(test)) >= 300
    np.testing.assert_allclose(train.std(axis=0), 1, rtol=1e-4)
    rows = [set(map(bytes, part)) for part in (train, validation, test)]
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])


def test_neutra_draws_from_the_target_whatever_the_flow():
  neutra = example("neutra", chains=16, results=150, warmup=100, couplings=1, steps=10, xla=False)
  keras.utils.set_random_seed(0)
  flow, losses = neutra.fitted_flow()
  assert losses[-1] < losses[0]
  neutra.funnel = lambda x: tf.reduce_sum(tfp.distributions.Normal(1.0, 2.0).log_prob(x), axis=-1)
  for transform, every in ((None, 2), (flow.bijector, 1)):
    x = neutra.sampler(transform, every)(tf.constant(4), tf.constant(0.8), tf.constant([0, 1])).numpy()
    assert x.shape == (150, 16, 10)
    for values, exact in ((x, 1), (x**2, 5)):
      error = values.std(axis=(0, 1)) / neutra.effective(values) ** 0.5
      assert np.all(np.abs(values.mean(axis=(0, 1)) - exact) < 6 * error), (transform, values.mean(axis=(0, 1)), error)


def test_bounds_of_surrogates_are_below_the_evidence(capsys):
  example("variational_posterior", steps=120, samples=32, couplings=2, xla=False).main([])
  head, _, exact, *surrogates = [
    [cell.strip() for cell in line.strip("|\n").split("|")] for line in capsys.readouterr().out.splitlines()
  ]
  assert head[1] == "ELBO, nats" and len(surrogates) == 3
  bounds = [tuple(map(float, row[1].split("±"))) for row in surrogates]
  for bound, error in bounds:
    assert bound < float(exact[1]) + 6 * error
  assert bounds[2][0] > bounds[1][0]  # the flow's is above that of any normal distribution


def test_the_sets_of_images_that_are_scored_fit_the_model():
  config = get_config("digits")
  with _own_flags():
    sets = example("score_digits").image_sets(config, seed=0)
  assert len(sets) == 11
  for name, images in sets.items():
    assert images.shape == (180, *config.image_shape) and 0 <= images.min() <= images.max() < config.levels, name


def test_the_exact_posterior_integrates_to_one():
  calibration = example("field_calibration")
  truth, power = calibration.simulate(1, np.random.RandomState(1))
  axes = [value + np.linspace(-0.5, 0.5, 33) for value in truth[0]]
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
  log_density = calibration.exact_log_posterior(grid, np.repeat(power, len(grid), axis=0), points=201)
  np.testing.assert_allclose(np.sum(np.exp(log_density)) / 32**2, 1, atol=0.01)


def test_an_epidemic_infects_as_many_as_theory_says_and_its_posterior_is_drawn(tmp_path, monkeypatch):
  epidemic = example("epidemic")
  (reported,) = epidemic.simulate(np.array([[3.0, 3.0, 1.0]]), np.random.RandomState(0))
  share = reported.sum() / epidemic.PEOPLE
  np.testing.assert_allclose(share, 1 - np.exp(-3 * share), atol=0.01)  # the final size of an SIR model: 94 %
  options = "--simulations=200", "--steps=5", "--members=2", "--tests=10", f"--output={tmp_path}"
  assert call(monkeypatch, "epidemic", *options).startswith("10 rows: ")
  assert {path.name for path in tmp_path.iterdir()} == {"calibration.png", "posterior.png"}


def test_ranks_of_equal_counts_pass_and_others_fail():
  calibration = example("field_calibration")
  ranks = np.arange(64 * 16)
  counts, p = calibration.histogram(ranks % 64)
  assert counts == [64] * 16 and p == 1
  assert calibration.histogram(np.full(1024, 5))[1] < 1e-9
  drawn = np.random.RandomState(0).randint(0, 64, 1024)
  assert calibration.histogram(drawn)[1] > 1e-3


tfd = tfp.distributions


def call(monkeypatch, name, *arguments):
  """EvalContext an example as a program, in this process; return what it prints."""
  path, out = str(ROOT / "examples" / f"{name}.py"), io.StringIO()
  monkeypatch.setattr(sys, "argv", [path, *arguments])
  monkeypatch.setattr(sys, "path", list(sys.path))
  with _own_flags(), _messages_of_a_process(io.StringIO()), contextlib.redirect_stdout(out):
    with pytest.raises(SystemExit) as exit:
      runpy.run_path(path, run_name="__main__")
  assert not exit.value.code
  return out.getvalue()


def table(out):
  """The numbers of the printed table's rows, by the text of their first column."""
  rows = [line.strip("|").split("|") for line in out.splitlines() if line.startswith("|")][2:]
  return {
    row[0].strip(): [float(word) for cell in row[1:] for word in cell.replace(";", " ").split() if word != "+-"]
    for row in rows
  }


# --- uci_digits.py ------------------------------------------------------------------------------


def test_more_digits_are_for_training_and_those_of_digits_stay_where_they_are(tmp_path, monkeypatch):
  digits = load_dataset("digits", labels=True)
  others = np.random.RandomState(0).randint(0, 17, [3, 64])
  known = digits.test[5].ravel(), digits.train[7].ravel()
  rows = [[*others[0], 4], [*known[0], 3], [*others[1], 9], [*known[1], 1], [*others[2], 0]]
  lines = [",".join(map(str, row)) for row in rows]
  (tmp_path / "keel.dat").write_text("\n".join(["@relation optdigits", "@data", *lines]) + "\n")
  (tmp_path / "uci.tra").write_text("\n".join(lines[:1]) + "\n")  # one is in both files
  output = tmp_path / "uci_digits.npz"
  out = call(monkeypatch, "uci_digits", f"--output={output}", str(tmp_path / "keel.dat"), str(tmp_path / "uci.tra"))
  assert out.endswith("uci_digits.npz: 1,530 for train, 90 for validation, 180 for test\n")
  made = load_dataset(f"npz:{output}", levels=17, labels=True)
  for split in ("validation", "test"):
    np.testing.assert_array_equal(made.split(split), digits.split(split))
    np.testing.assert_array_equal(made.labels[split], digits.labels[split])
  np.testing.assert_array_equal(made.train[:1527], digits.train)
  np.testing.assert_array_equal(made.labels["train"][:1527], digits.labels["train"])
  found = {image.tobytes(): label for image, label in zip(made.train[1527:], made.labels["train"][1527:])}
  assert found == {image.astype(np.uint8).tobytes(): label for image, label in zip(others, (4, 9, 0))}


# --- photo_folder.py, ct_folder.py --------------------------------------------------------------


def test_photographs_of_equal_names_are_all_there_and_links_once(tmp_path, monkeypatch):
  shades = {"a": 50, "b": 100, "skipped": 150}
  for folder, shade in shades.items():
    (tmp_path / folder).mkdir()
    Image.new("RGB", (40, 20), (shade, shade, shade)).save(tmp_path / folder / "large.jpg")
    (tmp_path / folder / "small.jpg").symlink_to("large.jpg")
  folders = [str(tmp_path / folder) for folder in shades]
  out = call(
    monkeypatch, "photo_folder", f"--output={tmp_path}/out", "--nopackaged", "--side=32", "--skip=/skip", *folders
  )
  assert out.startswith("wrote 2 photographs to ")
  assert (tmp_path / "out" / "splits.txt").read_text() == "train large.png\ntrain large_2.png\n"
  for name, shade in (("large", 50), ("large_2", 100)):
    with Image.open(tmp_path / "out" / f"{name}.png") as image:
      assert image.size == (32, 16) and np.abs(np.asarray(image, int) - shade).max() <= 1


def test_photographs_are_made_at_each_side_and_never_enlarged(tmp_path, monkeypatch):
  Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
  call(monkeypatch, "photo_folder", f"--output={tmp_path}/out", "--nopackaged", "--side=32,64,99", f"{tmp_path}/a.png")
  assert (tmp_path / "out" / "splits.txt").read_text() == "train a_32px.png\ntrain a_40px.png\n"
  with Image.open(tmp_path / "out" / "a_40px.png") as image:
    assert image.size == (40, 20)


def test_photographs_of_16_bits_or_lying_on_their_side_are_as_they_are_seen(tmp_path, monkeypatch):
  """Pillow clips 16 bits to white."""
  Image.fromarray(np.full([4, 8], 0x6480, np.uint16)).save(tmp_path / "deep.png")
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  Image.new("RGB", (8, 4), (100, 100, 100)).save(tmp_path / "side.jpg", exif=exif)
  paths = [f"{tmp_path}/deep.png", f"{tmp_path}/side.jpg"]
  call(monkeypatch, "photo_folder", f"--output={tmp_path}/out", "--nopackaged", *paths)
  crops = tmp_path / "crops"
  crops.mkdir()
  example("compress_photos", folder=str(tmp_path), side=99).write_crops(crops)
  for path in (tmp_path / "out" / "deep.png", crops / "deep.png.png"):
    with Image.open(path) as image:
      assert image.size == (8, 4) and np.all(np.asarray(image) == 0x64)
  for path in (tmp_path / "out" / "side.png", crops / "side.jpg.png"):
    with Image.open(path) as image:
      assert image.size == (4, 8)


def test_a_folder_of_which_no_photograph_is_taken_is_named(tmp_path, monkeypatch, capsys):
  (tmp_path / "camera").mkdir()
  Image.new("RGB", (8, 8)).save(tmp_path / "camera" / "a.JPG")
  out = call(monkeypatch, "photo_folder", f"--output={tmp_path}/out", "--nopackaged", f"{tmp_path}/camera")
  assert out.startswith("wrote 0 photographs") and "camera has no .jpg files" in capsys.readouterr().err


def test_tables_of_images_are_not_added_to(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))  # stands for what is not reached
  with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
    call(monkeypatch, "bulk", "--dataset=digits", f"--output={tmp_path}")


def write_volume(path, volume):
  """Write a project of InVesalius, of a volume of int16."""
  matrix = {"filename": "matrix.dat", "shape": [*volume.shape], "dtype": "int16"}
  contents = {"main.plist": plistlib.dumps({"matrix": matrix}), "matrix.dat": volume.tobytes()}
  members = ((tarfile.TarInfo(f"folder/{name}"), content) for name, content in contents.items())
  hostile_files.tar(path, *members, mode="w:gz")


def test_slices_are_the_volume_and_splits_do_not_touch(tmp_path, monkeypatch):
  volume = np.random.default_rng(0).integers(-1024, 3072, [108, 4, 6]).astype(np.int16)
  write_volume(tmp_path / "a.inv3", volume)
  out = call(monkeypatch, "ct_folder", f"--output={tmp_path}/out", f"--volume={tmp_path}/a.inv3")
  assert out.startswith("wrote 100 slices to ")
  of_split = collections.defaultdict(set)
  for line in (tmp_path / "out" / "splits.txt").read_text().splitlines():
    split, name = line.split()
    index = int(name[6:9])
    of_split[split].add(index)
    with Image.open(tmp_path / "out" / name) as image:
      np.testing.assert_array_equal(np.asarray(image), volume[index].astype(int) + 1024)
  assert {split: len(found) for split, found in of_split.items()} == {"train": 72, "validation": 8, "test": 20}
  for split, other in itertools.permutations(of_split.values(), 2):
    assert min(abs(i - j) for i in split for j in other) > 2


def test_a_volume_of_more_than_12_bits_is_refused_and_no_slice_is_written(tmp_path, monkeypatch):
  """Many scanners mark what is outside of their circle with -2000, which uint16 has not."""
  write_volume(tmp_path / "a.inv3", np.int16([-2000, 0, 0, 0]).reshape(1, 2, 2))
  with pytest.raises(ValueError, match="a.inv3 must have values from -1024 to 3071, got -2000 to 0"):
    call(monkeypatch, "ct_folder", f"--output={tmp_path}/out", f"--volume={tmp_path}/a.inv3")
  assert not (tmp_path / "out").exists()


# --- compress_photos.py -------------------------------------------------------------------------


def test_photographs_whose_names_differ_in_their_ending_are_all_compressed(tmp_path):
  (tmp_path / "crops").mkdir()
  for i, name in enumerate(("a.jpg", "a.png", "b.JPG")):
    Image.new("RGB", (8, 8), (100 * i, 0, 0)).save(tmp_path / name)
  names = example("compress_photos", folder=str(tmp_path), side=4).write_crops(tmp_path / "crops")
  reds = [np.asarray(Image.open(tmp_path / "crops" / name), int)[0, 0, 0] for name in names]
  np.testing.assert_allclose(reds, [0, 100, 200], atol=2)


# --- inpaint.py ---------------------------------------------------------------------------------


LEVELS = 3


@pytest.fixture(scope="module")
def four_pixels():
  """A perturbed model of 2x2 pixels."""
  keras.utils.set_random_seed(1)
  config = small_config(SMALL, image_shape=(2, 2, 1), levels=LEVELS, structure="columns:2", dequantization="uniform")
  return perturb(fpp.FlowPlusPlus(config), scale=0.5, seed=2)


def exact_posterior(model, upper, points=8):
  """P(lower row | upper row) as a `[LEVELS, LEVELS]` table, by the midpoint rule."""
  inside = (np.arange(points) + 0.5) / points
  axes = [x + inside for x in upper] + [np.concatenate([x + inside for x in range(LEVELS)])] * 2
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2, 2, 1).astype(np.float32)
  density = np.exp(tf.function(model.flow.log_prob)(grid)).reshape(points, points, LEVELS, points, LEVELS, points)
  weights = density.sum(axis=(0, 1, 3, 5))
  return weights / weights.sum()


def test_draws_of_missing_pixels_have_the_exact_posterior(four_pixels):
  inpaint = example("inpaint")
  upper, chains, seen = [(0, 2), (1, 1)], 128, np.array([True, False]).reshape(2, 1, 1)
  images = np.array([2 * row for row in upper]).reshape(2, 2, 2, 1)
  start = tf.random.stateless_uniform([chains, 2, 2, 2, 1], (0, 1), maxval=float(LEVELS))
  draws, accepted = inpaint.sample_posterior(four_pixels, images, seen, start, steps=160, leapfrog_steps=4)
  np.testing.assert_array_equal(draws[..., 0, :, 0], np.broadcast_to(upper, (80, chains, 2, 2)))
  assert np.all((0.5 < accepted) & (accepted < 1))
  for i in range(2):
    exact = exact_posterior(four_pixels, upper[i])
    assert np.abs(exact - 1 / LEVELS**2).max() > 0.03  # far from uniform, or the test would show little
    for a, b in itertools.product(range(LEVELS), repeat=2):
      share = np.mean(np.all(draws[:, :, i, 1, :, 0] == (a, b), axis=-1), axis=0)  # of each chain
      error = np.std(share, ddof=1) / np.sqrt(chains)
      assert abs(share.mean() - exact[a, b]) < 6 * error + 0.002, (a, b, share.mean(), exact[a, b], error)
  largest, _, size = inpaint.diagnose(draws, seen)
  assert np.all(largest < 1.15) and np.all(size > 1000)


@pytest.mark.exhaustive
def test_inpaint_keeps_the_seen_half_and_writes_a_picture(monkeypatch, tmp_path):
  path = tmp_path / "picture.png"
  out = call(
    monkeypatch,
    "inpaint",
    "--images=3,7",
    "--chains=2",
    "--steps=8",
    "--pool=8",
    "--leapfrog_steps=1",
    f"--picture={path}",
  )
  assert set(table(out)) == {"3", "7"}
  pixels = np.asarray(Image.open(path)).reshape(2, 10, 8, 4, 10, 8)[:, 1:-1, 0, :, 1:-1, 0]  # without frames
  digits = load_dataset("digits").test[[3, 7], ..., 0]
  for picture in (0, 2, 3):
    np.testing.assert_array_equal(pixels[:, :4, picture], np.floor(digits[:, :4] * (255 / 16)))
  np.testing.assert_array_equal(pixels[:, 4:, 0], np.floor(digits[:, 4:] * (255 / 16)))
  assert np.any(pixels[:, 4:, 2] != pixels[:, 4:, 0])


# --- vae_prior.py -------------------------------------------------------------------------------


def test_log_weights_give_the_evidence_where_it_is_known():
  # With a decoder that ignores its latents log p(x) is that of uniform pixels, whatever the encoder says.
  vae = example("vae_prior").VAE(fpp.layers.Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2)), 2, 8, 0.0)
  for network, bias in ((vae.encoder, [0.5, -0.5, 1.0, 1.0]), (vae.decoder, np.zeros(64 * 17))):
    network.layers[-1].kernel.assign(tf.zeros_like(network.layers[-1].kernel))
    network.layers[-1].bias.assign(bias)
  images = load_dataset("digits").test[:3].reshape(3, 64).astype("float32")
  log_weights = vae.log_weights(tf.constant(images), 4000)
  exact = -64 * np.log(17)
  np.testing.assert_allclose(
    tf.reduce_logsumexp(log_weights, axis=0) - np.log(4000), np.full(3, exact), rtol=0, atol=0.06
  )
  # KL(q || p) of N(+-0.5, softplus(1)^2) in two dimensions
  scale = np.log1p(np.e)
  elbo = exact - 2 * ((scale**2 + 0.25 - 1) / 2 - np.log(scale))
  np.testing.assert_allclose(np.mean(log_weights, axis=0), np.full(3, elbo), rtol=0, atol=0.06)


def test_the_bound_of_a_vae_has_as_many_draws_as_were_asked_for():
  class VAE:
    def __init__(self, *_):
      pass

    compile = fit = lambda *_, **__: None

    def log_weights(self, images, samples):
      return tf.zeros([samples, len(images)])

  vae_prior = example(
    "vae_prior", samples=100, epochs=1, latent_size=2, hidden=8, couplings=1, dropout=0.0, learning_rate=1e-3
  )
  vae_prior.VAE = VAE
  elbo, bound = vae_prior.train_and_evaluate("normal", 0, np.zeros([3, 64]), np.zeros([3, 64]))
  np.testing.assert_array_equal(elbo, np.zeros(3))
  np.testing.assert_allclose(bound, np.zeros(3), atol=1e-6)


@pytest.mark.exhaustive
def test_vae_prior_trains_both_priors_and_pairs_their_bounds(monkeypatch):
  out = call(
    monkeypatch,
    "vae_prior",
    "--epochs=2",
    "--seeds=1",
    "--latent_size=4",
    "--couplings=1",
    "--hidden=32",
    "--samples=64",
  )
  rows = table(out)
  assert set(rows) == {"normal", "flow", "difference, paired"}
  for elbo, _, bound, _ in (rows["normal"], rows["flow"]):
    assert -64 * np.log(17) < elbo < bound < -75  # better than the uniform distribution, and no miracle
  np.testing.assert_allclose(
    rows["difference, paired"][::2], np.subtract(rows["flow"], rows["normal"])[::2], atol=0.011
  )
  assert rows["difference, paired"][1] < rows["normal"][1]  # pairing removes what the images have in common


# --- super_resolution.py -------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_the_smaller_image_is_worth_bits_and_samples_agree_with_it(tmp_path):
  result = run(
    [str(ROOT / "examples" / "super_resolution.py")],
    "--steps=40",
    "--filters=8",
    "--structure=columns:2",
    "--noplain",
    f"--picture={tmp_path}/grid.png",
    TF_CPP_MIN_LOG_LEVEL="3",
  )
  out = result.ok().out
  bits = lambda name: float(re.search(rf"{name} +(\S+) \+-", out)[1])
  assert bits("given the smaller image") < bits("given that of another digit") - 0.05
  ours, others = map(float, re.search(r"smaller are (\S+) levels.* other digits (\S+)", out).groups())
  assert ours < others
  with Image.open(tmp_path / "grid.png") as picture:
    assert picture.size[0] > 300

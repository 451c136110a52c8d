"""bin/score on real-valued images: their exact density from every source, maps, p-values, and what is refused."""

import csv
import io
import math

import numpy as np
from PIL import Image
import pytest

from flowpp_tf import evaluation
from support.models import perturbed, small_config
from support.programs import call
from support.training_steps import stored_run


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
  """A folder with a run of a model of real-valued images, the model, and test images in files of every kind."""
  cwd = tmp_path_factory.mktemp("fields")
  config = small_config(dropout=0.0, dequantization="none")
  model = perturbed(config)
  images = np.random.RandomState(0).normal(size=[12, *config.image_shape]).astype(np.float32)
  np.savez(cwd / "data.npz", train=images[:4], validation=images[:6], test=images[6:])
  images, broken = images[6:], images[6:].copy()
  broken[2, 1, 1, 0], broken[4, 0, 0, 1] = np.nan, np.inf
  stored_run(cwd / "run", model, dataset=f"npz:{cwd}/data.npz")
  (cwd / "folder/deep").mkdir(parents=True)
  np.save(cwd / "folder/a.npy", images[0].astype(">f8"))
  np.save(cwd / "folder/deep/b.npy", images[1])
  pytest.importorskip("astropy.io.fits").PrimaryHDU(np.moveaxis(images[2], -1, 0)).writeto(cwd / "folder/c.fits")
  for name, array in {"folder/nan": broken[2], "folder/large": np.zeros([5, 4, 2]), "broken": broken}.items():
    np.save(cwd / f"{name}.npy", array)
  Image.new("L", (4, 4)).save(cwd / "folder/hidden.png")
  (cwd / "folder/png.npy").write_bytes((cwd / "folder/hidden.png").read_bytes())
  np.save(cwd / "array.npy", images)
  np.savez(cwd / "array.npz", images)
  np.save(cwd / "tall.npy", np.concatenate([images[:3], images[3:]], axis=1))
  return cwd, model, images


@pytest.mark.slow
def test_real_valued_images_have_their_exact_density_from_every_source(fields):
  cwd, model, images = fields
  log_probs = model.log_prob(images).numpy()
  typical = -model.log_prob(np.load(cwd / "data.npz")["validation"]).numpy().mean() / 32 / math.log(2)
  for source in (["--images=array.npz"], ["--dataset=npz:data.npz"], ["--images=folder"]):
    _, out, error = call("score", "--workdir=run", "--batch_size=4", *source, cwd=cwd).ok()
    rows = {row["image"]: row for row in csv.DictReader(io.StringIO(out))}
    names = ["a.npy", "deep/b.npy", "c.fits"] if source == ["--images=folder"] else map(str, range(6))
    for name, log_prob in zip(names, log_probs):
      bits = -log_prob / 32 / math.log(2)
      assert list(rows[name]) == ["image", *evaluation.REAL_SCORES, "error"] and not rows[name]["error"]
      found = [float(rows[name][score]) for score in evaluation.REAL_SCORES]
      np.testing.assert_allclose(found, [log_prob, log_prob / 32, bits, abs(bits - typical)], atol=1e-4)
  # The last source was the folder: what is wrong with a file is in its row, and in a line of its own.
  wrong = {
    "nan.npy": "`image` must be finite, got 1 values that are NaN or infinite",
    "large.npy": "`image` must be of shape [4, 4, 2], got (5, 4, 2)",
    "png.npy": "it is not an array: expected .npy, FITS or TIFF for a model of real-valued images",
  }
  assert {name: row["error"] for name, row in rows.items() if row["error"]} == wrong
  for name, reason in wrong.items():
    assert not rows[name]["log_likelihood"] and f"warning: cannot be read: {name} ({reason})\n" in error


@pytest.mark.slow
def test_real_valued_images_have_maps_and_p_values(fields):
  cwd, model, images = fields
  arguments = ["--workdir=run", "--typical_images=2", "--calibrate=array.npy"]
  out = call("score", *arguments, "--images=tall.npy", "--tiles", "--maps=maps", cwd=cwd).ok().out
  sound = -model.log_prob(images).numpy() / 32 / math.log(2)
  bits = (sound[:3] + sound[3:]) / 2  # of two tiles each
  for i, row in enumerate(csv.DictReader(io.StringIO(out))):
    assert float(row["bits_per_dim"]) == pytest.approx(bits[i], abs=1e-5)
    assert float(row["p_value"]) == pytest.approx(evaluation.conformal_p_value(sound, bits, True)[i], abs=1e-6)
    with Image.open(cwd / "maps" / f"{i}.png") as picture:
      assert picture.size == (4, 8) and len(picture.getcolors()) > 8  # it is not all of one colour
  for bad, words in (
    (
      ["--images=broken.npy"],
      "'broken.npy': `images` must be finite, got 2 values that are NaN or infinite, the first in image 2",
    ),
    (["--images=array.npy", "--calibrate=folder"], "--calibrate: 'large.npy' cannot be read: `image` must be of shape"),
    (["--images=folder", "--tiles", "--calibrate=folder"], "must consist of whole tiles of 4x4 (HxW), got 5x4"),
    (["--dataset=digits"], "has integer images, and the model takes real-valued ones"),
  ):
    result = call("score", *arguments, *bad, cwd=cwd)
    assert result.code == 2 and words in result.error and result.error.count("error:") == 1, result.error

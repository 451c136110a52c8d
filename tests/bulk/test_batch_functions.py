"""The functions for engines of batches: their numbers are those of the programs, whatever the batches are."""

import dataclasses

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.bulk import CompressImages, EncodeImages, ScoreImages
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import BatchedModel, Scorer
from support.files import contents
from support.refusing import refuses

IMAGES = load_dataset("digits").test[:20]


def in_batches(function, *sizes):
  """The columns of all batches together."""
  rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
  found = [function({"image": IMAGES[part], "index": part}) for part in rows]
  return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}


@pytest.mark.slow
def test_scores_are_those_of_the_same_batches_to_the_bit_and_of_others_to_rounding():
  expected = Scorer(fpp.FlowPlusPlus.from_preset("digits"), num_samples=2)(IMAGES, batch_size=10)
  score = ScoreImages("digits", num_samples=2, batch_size=10)
  same, others = in_batches(score, 10, 10), in_batches(score, 3, 10, 7)
  grey = score({"image": IMAGES[:10, ..., 0]})["bits_per_dim"]
  np.testing.assert_array_equal(grey, expected["bits_per_dim"][:10])
  np.testing.assert_array_equal(others["index"], np.arange(20))
  for name in ("log_likelihood", "bits_per_dim", "complexity_corrected", "png_bytes"):
    np.testing.assert_array_equal(same[name], expected[name])
    np.testing.assert_allclose(others[name], expected[name], rtol=1e-6)


@pytest.mark.slow
def test_latents_follow_from_the_image_and_decode_to_it():
  encode = EncodeImages("digits", batch_size=10)
  found = in_batches(encode, 3, 10, 7)["latent"]
  np.testing.assert_allclose(found, in_batches(encode, 10, 10)["latent"], atol=1e-4)
  np.testing.assert_array_equal(BatchedModel(fpp.FlowPlusPlus.from_preset("digits")).decode(found), IMAGES)


@pytest.mark.needs("constriction")
def test_archives_have_every_image_where_the_columns_say_so(tmp_path):
  compress = CompressImages("digits", tmp_path / "archives")
  found = in_batches(compress, 12, 8)
  assert "image" not in found and len({*found["archive"]}) == 2
  model = fpp.FlowPlusPlus.from_preset("digits")
  decoded = {path.name: fpp.decompress(model, path.read_bytes()) for path in (tmp_path / "archives").iterdir()}
  for index, archive, position in zip(found["index"], found["archive"], found["position"]):
    np.testing.assert_array_equal(decoded[archive][position], IMAGES[index])
  before = contents(tmp_path / "archives")
  in_batches(compress, 12, 8)  # as after a worker has died
  assert contents(tmp_path / "archives") == before


@pytest.mark.needs("constriction")
def test_other_images_of_the_same_bytes_have_another_archive(tmp_path):
  """Eight blank images of one byte a pixel have the bytes of one of eight."""
  compress, blank = CompressImages("digits", tmp_path / "archives"), np.zeros([8, 8, 8, 1], np.uint8)
  names = [compress({"image": images})["archive"][0] for images in (blank, blank[:1].astype(np.int64), blank[:1])]
  assert names[0] != names[1] == names[2]
  assert len(fpp.decompress(compress._codec, (tmp_path / "archives" / names[0]).read_bytes())) == 8
  refuses("^`output` '.*fpp' cannot be written: ", CompressImages, "digits", tmp_path / "archives" / names[0])


@pytest.mark.slow
@pytest.mark.needs("constriction")
def test_archives_of_other_models_have_other_names(tmp_path):
  model = fpp.FlowPlusPlus(
    dataclasses.replace(fpp.FlowPlusPlus.from_preset("digits").config, structure="columns:1", filters=4, blocks=1)
  )
  fpp.models.save_preset(model, tmp_path / "small", "Another model.")
  folder, names = tmp_path / "archives", set()
  for preset, embed_model in (("digits", False), (tmp_path / "small", False), (tmp_path / "small", True)):
    compress = CompressImages(preset, folder, embed_model)
    names.add(compress({"image": IMAGES[:2]})["archive"][0])
    for column in ("archive", "position"):
      refuses(f"^`batch` must have no column '{column}'", compress, {"image": IMAGES[:2], column: np.arange(2)})
  assert names == {path.name for path in folder.iterdir()} and len(names) == 3


def test_wrong_batches_and_models_are_one_line(tmp_path, monkeypatch):
  score = ScoreImages("digits", num_samples=1, batch_size=2)
  refuses("^`batch` must be a dict with a column 'image', got 'picture'", score, {"picture": IMAGES})
  refuses(r"^`image` must ", score, {"image": IMAGES[:, :4]})
  for function, column in ((score, "png_bytes"), (EncodeImages("digits", batch_size=2), "latent")):
    with pytest.raises(fpp.InputError, match=f"^`batch` must have no column '{column}', which would be replaced"):
      function({"image": IMAGES, column: np.arange(20)})
  refuses("unknown preset 'digit'", ScoreImages, "digit")
  refuses("is not a preset", ScoreImages, tmp_path)
  (tmp_path / "digits").mkdir()
  (tmp_path / "digits" / "config.json").write_text("{}")
  monkeypatch.chdir(tmp_path)
  message = "^`model` 'digits' is a preset, and the folder of a run: give its whole path"
  refuses(message, ScoreImages, "digits")

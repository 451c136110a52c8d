"""Image files of 9 to 16 bits: every bit of a file comes back, and what a model cannot have is an error."""

import dataclasses
import io

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.data import images
from flowpp_tf.io import budget
from flowpp_tf.io.deep_image import read_deep, read_real
from flowpp_tf.io.image_file import ImageFileError
from flowpp_tf.io.image_folder import open_folder
from flowpp_tf.programs import score
from support import programs
from support.files import encoded, fits, npy, tiff
from support.refusing import refuses
from support.runs import TINY_RUN

LEVELS = 1 << 16
RNG = np.random.RandomState(0)
GREY, COLOUR = RNG.randint(0, LEVELS, [8, 8, 1]).astype(np.uint16), RNG.randint(0, LEVELS, [8, 8, 3]).astype(np.uint16)
SPEC = dataclasses.replace(fpp.get_config("digits"), levels=LEVELS)


def png(pixels):
  return encoded("PNG", pixels[..., 0])


def colour_png(pixels):
  return pytest.importorskip("imagecodecs").png_encode(pixels)


KINDS = {
  "png": lambda: (png(GREY), GREY),
  "png, colour": lambda: (colour_png(COLOUR), COLOUR),
  "tiff": lambda: (tiff(GREY), GREY),
  "tiff, colour, deflate": lambda: (tiff(COLOUR, compression="deflate"), COLOUR),
  "tiff, planes": lambda: (tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"), COLOUR),
  "tiff, big-endian": lambda: (tiff(GREY, byteorder=">"), GREY),
  "npy": lambda: (npy(GREY), GREY),
  "npy, two dimensions": lambda: (npy(GREY[..., 0]), GREY),
  "npy, int32, big-endian": lambda: (npy(GREY.astype(">i4")), GREY),
  "fits": lambda: (fits(GREY), GREY),
  "fits, Rice": lambda: (fits(GREY, compressed=True), GREY),
  "fits, three planes": lambda: (fits(COLOUR), COLOUR),
}
WRONG = {
  "8 bits": (lambda: png((GREY >> 8).astype(np.uint8)), "it has 8 bits for each value"),
  "a JPEG": (lambda: encoded("JPEG", (GREY[..., 0] >> 8).astype(np.uint8)), "it has 8 bits for each value"),
  "colour": (lambda: npy(COLOUR), "the model's images are grey"),
  "negative": (lambda: npy(GREY.astype(np.int32) - LEVELS), "its values are from -"),
  "too large": (lambda: npy(GREY.astype(np.int32) + LEVELS), "expected 0 to 65,535"),
  "real numbers": (lambda: npy(GREY / 7), "it holds float64; expected integers of 16 bits"),
  "real numbers in FITS": (lambda: fits(GREY.astype(np.float32)), "it holds float32"),
  "several pages": (lambda: tiff(np.stack([GREY[..., 0]] * 2)[..., None]), "it has 2 images"),
  "inverted": (lambda: tiff(GREY, photometric="miniswhite"), "MINISWHITE"),
  "objects": (lambda: npy(np.array([{}])), "cannot be read"),
  "cut off": (lambda: npy(GREY)[:-9], "cannot be read: it claims an array"),
  "a cut TIFF": (lambda: tiff(GREY)[:-50], ""),
  "a cut FITS": (lambda: fits(GREY)[:2000], ""),
  "text": (lambda: b"hello", "is not an image"),
  "nothing": (lambda: b"", "empty"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_a_file_is_read(kind, tmp_path):
  content, pixels = KINDS[kind]()
  (tmp_path / "file").write_bytes(content)
  for file in (content, tmp_path / "file"):
    read = read_deep(file, pixels.shape[-1])
    assert read.dtype == np.uint16 and read.dtype.isnative
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.filterwarnings("ignore")  # of astropy, about a file that is cut off
@pytest.mark.parametrize("kind", WRONG)
def test_another_file_is_one_line_that_names_it(kind):
  content, message = WRONG[kind]
  with pytest.raises(ImageFileError, match="my file") as error:
    read_deep(content(), 1, "my file")
  assert message in str(error.value) and "\n" not in str(error.value)


REAL = RNG.normal(size=[8, 8, 1])


@pytest.mark.parametrize(
  ("write", "stored", "dtype"),
  [
    (npy, "<f4", "f4"),
    (npy, ">f8", "f8"),
    (npy, "f2", "f4"),
    (npy, "<i4", "f8"),
    (npy, ">i2", "f4"),
    (fits, "f4", "f4"),
    (fits, "f8", "f8"),
    (fits, "i2", "f4"),
    (tiff, "f4", "f4"),
  ],
)
def test_real_numbers_are_those_of_the_file(write, stored, dtype):
  pixels = (1000 * REAL).astype(stored)
  read = read_real(write(pixels), 1)
  assert read.dtype == np.dtype(dtype) and read.dtype.isnative
  np.testing.assert_array_equal(read, pixels)


WRONG_REAL = {
  "pixels": (lambda: png(GREY), "it is not an array: expected .npy, FITS or TIFF"),
  "complex numbers": (lambda: npy(REAL * 1j), "it holds complex128; expected real numbers"),
  "another size": (lambda: npy(REAL[:4]), "`image` must be of shape [8, 8, 1], got (4, 8, 1)"),
  "two channels": (lambda: npy(np.concatenate([REAL] * 2, axis=-1)), "the model's images are grey"),
  "NaN": (lambda: npy(np.where(REAL > 2, np.nan, REAL)), "`image` must be finite"),
}


@pytest.mark.parametrize("kind", WRONG_REAL)
def test_a_file_that_a_real_valued_model_does_not_take_is_named(kind, tmp_path):
  spec = dataclasses.replace(SPEC, dequantization="none")
  (tmp_path / "my.npy").write_bytes(npy(REAL))
  np.testing.assert_array_equal(images.read_for_model(tmp_path / "my.npy", spec), REAL)
  content, message = WRONG_REAL[kind]
  (tmp_path / "my.npy").write_bytes(content())
  with pytest.raises(ImageFileError, match="my.npy") as error:
    images.read_for_model(tmp_path / "my.npy", spec)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_an_image_is_larger_than_the_budget_before_it_is_decoded():
  with budget.use(budget.Budget(pixels=10)), pytest.raises(ImageFileError, match="pixels"):
    read_deep(tiff(GREY), 1)


def test_images_of_another_size_are_cropped_and_resized_with_16_bits():
  ramp = np.broadcast_to(np.linspace(0, LEVELS - 1, 32)[None, :, None], [16, 32, 1]).astype(np.uint16)
  image, enlarged = images.read_image(io.BytesIO(npy(ramp)), (8, 8, 1), levels=LEVELS)
  assert image.dtype == np.uint16 and not enlarged
  # The centre, of half the width: the mean of two columns each, which lie on the ramp; borders are filtered.
  means = ramp[0, 8:24, 0].reshape(8, 2).mean(axis=1)
  np.testing.assert_allclose(image[:, 3:-3, 0], np.broadcast_to(means, [8, 8])[:, 3:-3], atol=1.5)
  assert len(np.unique(image >> 8)) == 8 and np.any(image & 255)


def folder(tmp_path, count=12):
  for i in range(count):
    pixels = RNG.randint(0, LEVELS, [8, 8, 1]).astype(np.uint16)
    name, content = [("npy", npy), ("png", png), ("tif", tiff), ("fits", fits)][i % 4]
    (tmp_path / f"{i:02}.{name}").write_bytes(content(pixels))
  return tmp_path


@pytest.mark.parametrize("crops", [False, True])
def test_a_folder_is_a_data_set_of_16_bits(tmp_path, crops):
  loaded = data.load_dataset(f"folder:{folder(tmp_path)}", image_shape=(8, 8, 1), levels=LEVELS, crops=crops)
  assert loaded.levels == LEVELS and not loaded.notes
  found = {np.asarray(image).tobytes() for split in data.SPLITS for image in loaded.split(split)}
  files = sorted(tmp_path.iterdir())
  assert len(files) == 12
  assert found == {read_deep(path, 1).tobytes() for path in files}
  loaded.check(SPEC)
  assert loaded.fingerprint()["levels"] == LEVELS


def test_a_folder_of_an_8_bit_model_says_that_it_takes_the_upper_bits(tmp_path, capsys):
  for i in range(4):
    (tmp_path / f"{i}.png").write_bytes(png(GREY))
  loaded = data.load_dataset(f"folder:{tmp_path}", image_shape=(8, 8, 1))
  np.testing.assert_array_equal(loaded.train[0], GREY >> 8)
  assert loaded.notes == ("of 16 bits, of which a model of at most 256 levels gets the upper 8: 4",)
  config = dataclasses.replace(SPEC, levels=256)
  for tiles in (False, True):
    assert len(list(score._read_files(config, tmp_path, ["0.png", "1.png"], tiles))) == 2
    assert "2 of 2 files have 16 bits, of which a model of at most 256 levels gets the upper" in capsys.readouterr().err


def test_files_of_8_bits_in_a_folder_of_16_are_errors_or_skipped(tmp_path):
  folder(tmp_path)
  (tmp_path / "preview.png").write_bytes(png((GREY >> 8).astype(np.uint8)))
  load = lambda **options: data.load_dataset(f"folder:{tmp_path}", image_shape=(8, 8, 1), levels=LEVELS, **options)
  refuses("preview.png.*8 bits", load)
  assert load(max_bad_files=1).notes == ("skipped, as they cannot be read: 1",)


def test_12_bits_are_those_of_the_file_and_more_are_errors(tmp_path):
  for i in range(4):
    (tmp_path / f"{i}.npy").write_bytes(npy(GREY % 4096))
  load = lambda: data.load_dataset(f"folder:{tmp_path}", image_shape=(8, 8, 1), levels=4096)
  np.testing.assert_array_equal(load().train[0], GREY % 4096)
  (tmp_path / "4.npy").write_bytes(npy(GREY))
  refuses(r"4.npy.*0 .. 4095 \(4096 levels\)", load)


def test_names_of_other_formats_are_image_files_only_of_16_bits(tmp_path):
  folder(tmp_path)
  assert len(open_folder(tmp_path)[1]) == 3 and len(open_folder(tmp_path, LEVELS)[1]) == 12


def test_npz_files_have_16_bits(tmp_path):
  arrays = {split: RNG.randint(0, LEVELS, [4, 8, 8]).astype(np.uint16) for split in data.SPLITS}
  np.savez(tmp_path / "a.npz", **arrays)
  loaded = data.load_dataset(f"npz:{tmp_path / 'a.npz'}", levels=LEVELS)
  assert loaded.train.dtype == np.uint16
  np.testing.assert_array_equal(loaded.test[..., 0], arrays["test"])
  refuses("must lie in 0 .. 255", data.load_dataset, f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.slow
def test_the_programs_take_files_of_16_bits(tmp_path):
  """Training, evaluation, scores of files, samples and reconstructions, from a folder to arrays of uint16."""
  (tmp_path / "files").mkdir()
  folder(tmp_path / "files", 24)
  shape = ["--image_shape=8,8,1", f"--levels={LEVELS}", "--pixel_transform=asinh"]
  call = lambda *arguments: programs.call(*arguments, cwd=tmp_path)
  run = ["--dataset=folder:files", "--workdir=run", "--steps=2", "--batch_size=4", "--num_samples=1"]
  assert call("train", *TINY_RUN, *shape, *run).code == 0
  assert call("evaluate", "--workdir=run", "--num_samples=1").code == 0
  result = call("score", "--workdir=run", "--images=files", "--num_samples=1", "--output=scores.csv")
  assert result.code == 0 and len((tmp_path / "scores.csv").read_text().splitlines()) == 25
  assert call("sample", "--workdir=run", "--n=3", "--npy=samples.npy", "--output=samples.png").code == 0
  assert np.load(tmp_path / "samples.npy").dtype == np.uint16
  back = ["--reconstruct=files/00.npy", "--npy=back.npy", "--output=back.png"]
  assert call("sample", "--workdir=run", *back).code == 0
  original = np.load(tmp_path / "back.npy")[0, 0]
  np.testing.assert_array_equal(original, read_deep(tmp_path / "files" / "00.npy", 1))

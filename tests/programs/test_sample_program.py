"""bin/sample, each kind of picture by its flags, in one process."""

import dataclasses
import re

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf import evaluation
from flowpp_tf.data import load_dataset
from flowpp_tf.programs import sample_grids
from support.models import perturbed, small_config
from support.programs import call, refusal
from support.training_steps import stored_run

CONFIG = small_config(image_shape=(8, 8, 1), levels=17, dropout=0.0)
DIGITS = load_dataset("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with a run in `run`, and files of images in `pets` and none in `empty`."""
  folder = tmp_path_factory.mktemp("sample")
  stored_run(folder / "run", perturbed(CONFIG), dataset="digits", fingerprint=DIGITS.fingerprint())
  tiles = dataclasses.replace(CONFIG, tile_neighbours=True, condition_channels=4, condition_blocks=1)
  stored_run(folder / "tiles", fpp.FlowPlusPlus(tiles))
  (folder / "empty").mkdir()
  (folder / "pets").mkdir()
  for name, index in (("cat", 5), ("dog", 6)):
    greys = np.round(DIGITS.test[index, ..., 0] * (255 / 16)).astype(np.uint8)
    Image.fromarray(greys).save(folder / "pets" / f"{name}.png")
  return folder


@pytest.fixture
def program(folder, monkeypatch):
  """Function that calls the program with flags: its lines, and its array."""
  monkeypatch.chdir(folder)

  def call_program(*arguments):
    code, out, error = call("sample", "--workdir=run", "--npy=images.npy", *arguments, cwd=folder)
    assert code == 0 and error == ""
    *lines, npy = out.splitlines()
    assert npy == "wrote images.npy"
    return lines, np.load("images.npy")

  return call_program


def has_grid(path, rows, columns, wide=0, left=20):
  """Whether a picture is a grid of 8x8 images with a title above, and on the left at least so many pixels of labels."""
  with Image.open(path) as picture:
    pixels = np.asarray(picture)

  width, height = (9 * columns - 1 + 3 * wide, 9 * rows - 1)
  sizes = [(pixels.shape[1] - width * scale, pixels.shape[0] - height * scale) for scale in range(1, 60)]
  return any(beside >= left and above == 28 for beside, above in sizes)


def test_samples_and_a_row_of_them_for_each_temperature(program):
  lines, images = program("--n=3", "--seed=7", "--temperature=0.5", "--batch_size=2")
  assert lines == ["wrote run/samples_t0.5_s7.png"]
  lines, rows = program("--n=3", "--seed=7", "--temperature=1,0.5")
  assert lines == ["wrote run/samples_t1.0-0.5_s7.png"]
  assert rows.shape == (2, 3, 8, 8, 1) and rows.dtype == np.uint8 and rows.max() <= 16
  np.testing.assert_array_equal(rows[1], images)  # the same latents, at any temperature
  assert np.any(rows[0] != images)
  assert has_grid("run/samples_t1.0-0.5_s7.png", rows=2, columns=3)


def test_pictures_of_a_model_whose_tiles_see_their_neighbours(folder, monkeypatch):
  sizes = []
  draw = evaluation.sample_pictures

  def drawn(*arguments):
    sizes.append(arguments[-1])
    return draw(*arguments)

  monkeypatch.setattr(sample_grids, "sample_pictures", drawn)
  flags = ["--workdir=tiles", "--n=2", "--npy=tiles.npy", "--picture_size=8,12", "--batch_size=1"]
  code, _, error = call("sample", *flags, cwd=folder)
  assert code == 0 and np.load(folder / "tiles.npy").shape == (2, 8, 12, 1) and sizes == [1], error
  for flag in ("--guidance=1", "--temperature=0.5,1", "--neighbours=2"):
    line = refusal("sample", *flags, flag, cwd=folder)
    assert "draws samples at one --temperature, without --guidance" in line


def test_interpolation_as_a_grid_and_as_a_film(program):
  # The files hold images of the data: a path and a number name the same image.
  lines, images = program("--interpolate=test:5,pets/dog.png", "--frames=4", "--seed=2")
  assert lines == ["ends: 0 of 128 pixel values differ", "wrote run/interpolation_test5_dog_s2.png"]
  np.testing.assert_array_equal(images[[0, -1]], DIGITS.test[[5, 6]])
  assert len(images) == 4
  lines, film = program("--interpolate=pets/cat.png,test:6", "--frames=4", "--seed=2", "--output=film.gif")
  assert lines[-1] == "wrote film.gif"
  np.testing.assert_array_equal(film, images)
  with Image.open("film.gif") as gif:
    assert gif.is_animated
  _, film = program("--interpolate=test:5,test:6", "--output=film.apng")
  with Image.open("film.apng") as animation:
    assert len(film) == 30 and animation.n_frames > 2


@pytest.mark.parametrize(
  "dtype, cause", [("float32", "--flow_dtype=float64 helps"), ("mixed_bfloat16", "The networks round to bfloat16")]
)
def test_pixels_that_do_not_come_back_are_named_with_their_cause(capsys, dtype, cause):
  config = dataclasses.replace(fpp.get_config("digits"), dtype=dtype)
  images = np.zeros([2, 8, 8, 1], np.uint8)
  decoded = images.copy()
  for count, pixel in enumerate([(0, 0, 0), (1, 2, 3)], start=1):  # one of any number of pixels may be at a boundary
    decoded[pixel] = 1
    sample_grids.warn_of_differences(evaluation.Reconstruction(images, decoded), config)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == count - 1
  assert f"{count} of 128 pixel values differ" in lines[0] and cause in lines[0]


def test_reconstruction_of_splits_files_and_folders(program):
  lines, rows = program("--reconstruct=pets,test:3,validation", "--n=18")
  assert lines == ["0 of 1,344 pixel values differ", "wrote run/reconstruction_pets_s0.png"]
  expected = np.concatenate([DIGITS.test[[5, 6, 3]], DIGITS.validation[:18]])
  np.testing.assert_array_equal(rows, [expected, expected])
  # 21 images, five in a row, each with its reconstruction and the difference.
  assert has_grid("run/reconstruction_pets_s0.png", rows=5, columns=15, wide=4, left=0)


def test_a_picture_of_many_parts_has_a_name_that_a_file_can_have(program):
  names = set()
  for last in ("0.8", "0.9"):
    lines, rows = program("--n=1", f"--temperature={'0.25,' * 60}{last}")
    assert rows.shape[0] == 61
    (path,) = re.findall(r"^wrote run/(samples_t0\.25-.*_s0\.png)$", lines[-1])
    names.add(path)
  assert len(names) == 2 and max(map(len, names)) <= 255


def test_rows_are_temperatures_and_labels_and_guided_samples_have_a_name_of_their_own(folder):
  config = dataclasses.replace(CONFIG, num_classes=2, label_dropout=0.1, condition_channels=4, condition_blocks=1)
  stored_run(folder / "classes", fpp.FlowPlusPlus(config))
  for guidance, name in ((0, "t1.0_s0"), (2, "t1.0_g2.0_s0")):
    code, out, _ = call("sample", "--workdir=classes", "--n=1", f"--guidance={guidance}", cwd=folder)
    assert code == 0 and out.splitlines()[-1] == f"wrote classes/samples_labels0-1_{name}.png"
  arrays = []
  for temperature, name in (("0.5,1", "samples_labels1_t0.5-1.0_s0.png"), ("1", "samples_labels1_t1.0_s0.png")):
    flags = ["--n=2", "--labels=1", f"--temperature={temperature}", "--npy=classes.npy"]
    assert call("sample", "--workdir=classes", *flags, cwd=folder).code == 0
    assert (folder / "classes" / name).exists()
    arrays.append(np.load(folder / "classes.npy"))
  assert arrays[0].shape == (2, 2, 8, 8, 1)
  np.testing.assert_array_equal(arrays[0][1:], arrays[1])


def test_neighbours_beside_the_samples(program):
  lines, rows = program("--neighbours=2", "--n=3", "--temperature=0.9")
  assert rows.shape == (3, 3, 8, 8, 1)
  _, samples = program("--n=3", "--temperature=0.9")
  np.testing.assert_array_equal(rows[:, 0], samples)
  for row, line in zip(rows.astype(np.float64), lines):
    errors = np.sqrt(np.mean((row[0] - DIGITS.train) ** 2, axis=(1, 2, 3)))
    first, second = np.argsort(errors, kind="stable")[:2]
    assert line.endswith(f": train:{first} at {errors[first]:.2f}, train:{second} at {errors[second]:.2f}")
    np.testing.assert_array_equal(row[1:], DIGITS.train[[first, second]])
  assert lines[3] == "wrote run/neighbours_t0.9_s0.png"


@pytest.mark.parametrize(
  "arguments, message",
  [
    ("--temperature=hot", "`temperature` must be numbers of at least 0"),
    ("--temperature=", "`temperature` must be numbers of at least 0"),
    ("--temperature=0.5,-1", "got (0.5, -1.0)"),
    ("--temperature=inf", "numbers of at least 0, such as 0.5,0.7,1.0, got inf"),
    ("--interpolate=test,validation", "no whole splits or folders"),
    ("--interpolate=test:1,test:180", "'test:180' must have a number from 0 to 179"),
    ("--interpolate=test:1,test:-1", "'test:-1' must have a number"),
    ("--interpolate=test:1,dev:1", "there is no image 'dev:1'; expected a file, a folder"),
    ("--interpolate=test:1,test:2 --n=3", "`n` must be left out with --interpolate, got 3"),
    ("--reconstruct=", "`reconstruct` is empty"),
    ("--reconstruct=run/config.json", "'run/config.json' is not an image"),
    ("--reconstruct=empty", "folder 'empty' has no image"),
    ("--reconstruct=test --temperature=0.5", "`temperature` must be left out with --interpolate or --reconstruct"),
    ("--reconstruct=test --frames=3", "`frames` must be left out without --interpolate"),
    ("--reconstruct=test --neighbours=3", "`neighbours` must be left out with --interpolate or --reconstruct"),
    ("--neighbours=2 --temperature=1,2", "`temperature` must be one number, got (1.0, 2.0)"),
    ("--neighbours=2 --labels=1,2", "`labels` must be one label, got (1, 2)"),
    ("--neighbours=1528 --n=1", "`neighbours` must be at most 1,527, got 1528"),
    ("--output=a.gif", "must be a file that ends in .png, .jpg, .jpeg, .webp, or with --interpolate in .gif, .apng"),
    ("--output=images.png --npy=images.png", "`npy` must be another file than --output"),
    ("--output=./pets/../images.png --npy=images.png", "`npy` must be another file than --output"),
    ("--reconstruct=pets --output=pets/cat.png", "it is one of the files that are read"),
    ("--interpolate=test:1,pets/dog.png --output=pets/../pets/dog.png", "it is one of the files that are read"),
    ("--dataset=folder:pets --output=pets/cat.png", "it is one of the files that are read"),
    ("--output=run", "`output` must be a file that ends in .png"),
    ("--output=no/a.png", "cannot write 'no/a.png': there is no folder 'no'"),
  ],
)
def test_bad_input_is_one_line_that_names_it_and_leaves_nothing(folder, arguments, message):
  assert message in refusal("sample", "--workdir=run", "--npy=images.npy", *arguments.split(), cwd=folder)

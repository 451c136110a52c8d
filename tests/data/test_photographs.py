"""Photographs larger than the model's images: the grid, the crops at random positions, a folder of them."""

import tracemalloc

import numpy as np
from PIL import Image
import pytest

from flowpp_tf import data
from flowpp_tf.data import ReducedBits
from flowpp_tf.data.random_crops import photographs_of as random_crops_of
from support.refusing import refuses

SIZES = [(5, 7), (3, 4)]


def photographs(**options):
  """Two photographs whose pixels say where they are: photograph, row, column."""
  pixels = [
    [i, row, column] for i, (rows, columns) in enumerate(SIZES) for row in range(rows) for column in range(columns)
  ]
  return data.RandomCrops(np.asarray(pixels, np.uint8), SIZES, (2, 3, 3), **options)


def random_crops(images, draws):
  return images.cut(images.random_places(draws))


def corner(crop):
  """The place of a crop, after a check that it is one piece of one photograph."""
  first = crop[0, 0].astype(int)
  offsets = np.stack(np.meshgrid([0], range(2), range(3), indexing="ij"), axis=-1)[0]
  np.testing.assert_array_equal(crop, first + offsets)
  return tuple(first)


def test_as_an_array_they_are_the_crops_of_a_grid():
  crops = photographs()
  expected = [(0, 0, 0), (0, 0, 3), (0, 2, 0), (0, 2, 3), (1, 0, 0)]
  assert [corner(crop) for crop in crops[:]] == expected and crops.shape == (5, 2, 3, 3)
  assert corner(crops[-1]) == expected[-1]
  assert [corner(crop) for crop in crops[np.asarray([3, 1])]] == [expected[3], expected[1]]
  assert [corner(crop) for crop in photographs(most=2)[:]] == [expected[0], expected[2]]


def test_places_that_do_not_exist_are_refused():
  crops = photographs()
  for indices in ([-1], [5], [1.5]):
    refuses("`indices` must be integers in 0 .. 4", crops.inside, np.asarray(indices))
  for draws in ([1.0], [-0.1], [np.nan]):
    refuses("`draws` must lie in", crops.random_places, np.asarray(draws))


def test_fewer_bits_of_images_with_all_bits_are_those_of_the_photographs():
  twice = ReducedBits(ReducedBits(photographs(), 8), 5)
  assert random_crops_of(twice) is not None and twice.bits == 5
  np.testing.assert_array_equal(twice[:], photographs()[:] >> 3)


def test_every_position_of_a_crop_is_equally_likely():
  count = 4 * 5 + 2 * 2
  draws = (np.arange(10 * count) + 0.5) / (10 * count)
  places = [corner(crop) for crop in random_crops(photographs(), draws)]
  expected = [
    (i, top, left) for i, (rows, columns) in enumerate(SIZES) for top in range(rows - 1) for left in range(columns - 2)
  ]
  assert places[::10] == expected and [places.count(place) for place in expected] == count * [10]
  np.testing.assert_array_equal(random_crops(photographs(), np.asarray([np.nextafter(1, 0)]))[0, 0, 0], [1, 1, 1])


def test_balanced_photographs_have_shares_that_grow_with_the_root_of_their_area():
  draws = np.random.RandomState(0).uniform(size=100_000)
  sizes = [(4, 6), (40, 60), (2, 3)]
  pixels = np.zeros([sum(height * width for height, width in sizes), 3], np.uint8)
  crops = data.RandomCrops(pixels, sizes, (2, 3, 3), balanced=True)
  for same in (crops, crops.with_neighbours(), crops.with_edges()):
    places = same.random_places(draws)
    shares = np.bincount(places.photographs, minlength=3) / len(draws)
    roots = np.sqrt([24, 2400, 6])
    np.testing.assert_allclose(shares, roots / roots.sum(), atol=5 * np.sqrt(0.25 / len(draws)))
  rows, columns = places.corners[places.photographs == 1].T
  number = rows * 58 + columns  # 39 * 58 positions
  assert rows.max() == 38 and columns.max() == 57 and abs(number.mean() / 2261 - 0.5) < 0.01
  assert not places.corners[places.photographs == 2].any()
  same = data.RandomCrops(pixels[: 2 * 24], [(4, 6), (4, 6)], (2, 3, 3), balanced=True)
  area = data.RandomCrops(pixels[: 2 * 24], [(4, 6), (4, 6)], (2, 3, 3))
  edges = np.concatenate([np.arange(24) / 24, np.nextafter(np.arange(1, 25) / 24, 0), draws])
  for found, expected in zip(same.random_places(edges), area.random_places(edges), strict=True):
    np.testing.assert_array_equal(found, expected)


def batches(images, first=0, **options):
  return np.stack([batch.numpy() for batch in data.training_batches(images, 8, 7, first, **options).take(4)])


def test_training_takes_other_crops_in_each_step_by_seed_and_step_for_any_number_of_workers():
  images = photographs()
  one = batches(images, flip=True)
  assert len({crop.tobytes() for crop in one.reshape(-1, 18)}) > 15
  np.testing.assert_array_equal(batches(images, first=1, flip=True)[:3], one[1:])
  parts = [batches(images, flip=True, num_shards=2, shard=i) for i in range(2)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), one)
  np.testing.assert_array_equal(batches(ReducedBits(images, 7), flip=True), one >> 1)


@pytest.fixture
def folder(tmp_path):
  random = np.random.RandomState(0)
  names = {"train": ["a", "b", "tiny"], "validation": ["c"], "test": ["d"]}
  for name in sum(names.values(), []):
    size = (4, 4, 3) if name == "tiny" else (20, 24, 3)
    Image.fromarray(random.randint(0, 256, size).astype(np.uint8)).save(tmp_path / f"{name}.png")
  (tmp_path / "splits.txt").write_text("".join(f"{s} {n}.png\n" for s, found in names.items() for n in found))
  return tmp_path


def load(folder, image_shape=(8, 8, 3), **options):
  return data.load_dataset(
    f"folder:{folder}", image_shape=image_shape, splits_file=folder / "splits.txt", crops=True, **options
  )


def test_a_folder_of_photographs_is_cut_and_not_made_smaller(folder):
  dataset = load(folder)
  assert [len(dataset.split(split)) for split in data.SPLITS] == [2 * 6, 6, 6]
  with Image.open(folder / "d.png") as image:
    whole = np.asarray(image)
  np.testing.assert_array_equal(dataset.test[4], whole[8:16, 8:16])
  assert dataset.notes == ("left out, as they are smaller than a crop: 1",)
  assert batches(dataset.train).shape == (4, 8, 8, 8, 3)


def test_the_cache_gives_the_same_photographs(folder, cache_on_disk, tmp_path_factory):
  expected = load(folder).fingerprint()["sha256"]
  cache_on_disk()
  for _ in range(2):  # written, then read
    assert load(folder, cache_dir=tmp_path_factory.getbasetemp() / "photographs").fingerprint()["sha256"] == expected


@pytest.mark.parametrize("sides", [(8, 4), (4, 8)])
def test_the_cache_does_not_keep_what_is_too_small_for_crops_of_another_size(folder, cache_on_disk, tmp_path, sides):
  expected = {side: load(folder, (side, side, 3)) for side in sides}
  cache_on_disk()
  for side in 2 * sides:
    found = load(folder, (side, side, 3), cache_dir=tmp_path / "cache")
    assert found.notes == expected[side].notes and found.fingerprint() == expected[side].fingerprint()


def test_what_is_left_out_takes_no_memory_for_each_pixel(tmp_path, cache_on_disk, monkeypatch):
  cache_on_disk()
  # One after the other: with threads the peak depends on how many photographs they hold at once.
  monkeypatch.setattr("flowpp_tf.data.images.parallel_map", lambda function, items, ahead=0: map(function, items))
  sizes = {**{f"train {i}": 100 for i in range(10)}, "train small": 2, "validation 0": 8, "test 0": 8}
  for name, height in sizes.items():
    Image.new("RGB", (1000, height)).save(tmp_path / f"{name}.png")
  (tmp_path / "splits.txt").write_text("".join(f"{name.split()[0]} {name}.png\n" for name in sizes))
  tracemalloc.start()
  dataset = load(tmp_path, cache_dir=tmp_path / "cache")
  most = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(dataset.train) == 10 * 12 * 125
  assert most < 3e6  # of a million pixels, of which each would take 9; one photograph is 0.3 MB


def test_one_large_photograph_of_a_folder_does_not_supply_most_crops(tmp_path):
  for i in range(12):
    Image.new("RGB", (12, 8)).save(tmp_path / f"{i}.png")
  Image.new("RGB", (480, 320)).save(tmp_path / "large.png")
  rows = [f"train {name}" for name in [*map(str, range(10)), "large"]] + ["validation 10", "test 11"]
  (tmp_path / "splits.txt").write_text("".join(f"{row}.png\n" for row in rows))
  draws = np.random.RandomState(0).uniform(size=10_000)
  places = load(tmp_path).train.random_places(draws)
  assert abs((places.photographs == 10).mean() - 40 / 50) < 0.02  # of 153,600 / 154,560 pixels


def test_an_unknown_orientation_turns_nothing(folder):
  tags = Image.Exif()
  tags[0x0112] = 9
  with Image.open(folder / "d.png") as image:
    image.save(folder / "d.png", exif=tags)
  assert len(load(folder).test) == 6


def test_damaged_photographs_are_named_and_skipped_if_allowed(folder):
  (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
  refuses("1 image file cannot be read.*b.png", load, folder)
  assert len(load(folder, max_bad_files=1).train) == 6


def test_the_bundled_photographs_have_the_same_test_patches_with_crops_and_without():
  whole, crops = data.load_dataset("photos"), data.load_dataset("photos", crops=True)
  np.testing.assert_array_equal(whole.test, crops.test)
  assert len(whole.test) == 476 and isinstance(crops.train, data.RandomCrops)
  grid = {patch.tobytes() for patch in whole.train}
  assert {patch.tobytes() for patch in crops.train[:]} == grid

"""Tiles that see their neighbours: their context, its order in the codec, and the bits that they take."""

import dataclasses
import functools

import numpy as np
from PIL import Image
import pytest

import flowpp_tf as fpp
from flowpp_tf import data
from flowpp_tf.compression import Codec, segment
from flowpp_tf.compression.files import pictures, reading
from flowpp_tf.compression.stack import Stack, WindowError
from flowpp_tf.data import ReducedBits
from flowpp_tf.data.pipeline import _read_tiles, grid_tiles
from flowpp_tf.evaluation import sample_pictures
from flowpp_tf.tiles.cutting import count_tiles, to_tiles
from flowpp_tf.tiles.neighbours import RUN, TileLayout
from support.archives import apart, decode_segment, pack_files, put_together, unpack_files
from support.files import flipped
from support.refusing import refuses

SHAPE, STEP = (4, 8, 1), (2, 4)
SIZES = [(9, 21), (4, 8), (17, 30)]


@functools.cache
def drawings(channels=1):
  """Pictures of no multiple of a tile's size, smooth with noise."""
  rng = np.random.default_rng(0)
  smooth = [np.add.outer(3 * np.arange(h), 2 * np.arange(w))[..., None] for h, w in SIZES]
  return [(s + rng.integers(0, 9, (*s.shape[:2], channels))).astype(np.uint8) for s in smooth]


def tiles_of(images, shape=SHAPE):
  """Tiles, and the runs of their layout."""
  tiles = [to_tiles(image, shape) for image in images]
  return np.concatenate(tiles), [(*image.shape[:2], 0, len(some)) for image, some in zip(images, tiles)]


@functools.cache
def model():
  """A small model of tiles, of random weights that use the context."""
  config = fpp.get_config("digits")
  small = dict(filters=8, dequant_filters=8, components=2, condition_channels=4, condition_blocks=1, dropout=0.0)
  model = fpp.FlowPlusPlus(dataclasses.replace(config, image_shape=SHAPE, levels=256, tile_neighbours=True, **small))
  tiles, runs = tiles_of(drawings())
  context = TileLayout.from_runs(SHAPE, runs, STEP).context(tiles, np.arange(len(tiles)), 256)
  model.adapt({"image": tiles, "condition": context.astype(np.float32)})
  rng = np.random.default_rng(1)
  for variable in model.weights:
    if "condition_net" in variable.path or "context_projection" in variable.path:
      variable.assign_add(0.15 * rng.normal(size=variable.shape))
    if "output_conv/kernel" in variable.path and "dequantizer" not in variable.path:
      variable.assign(2.5 * variable)
  return model


@functools.cache
def small_codec():
  return Codec(model())


def expected_context(image, row, column, shape, levels=256):
  """The context by definition: for each pixel, its mirror image in each neighbour."""
  (height, width, channels), (h, w, _) = image.shape, shape
  at = lambda i, j: image[min(i, height - 1), min(j, width - 1)].astype(float) / (levels - 1) * 2 - 1
  top, left = row * h, column * w
  result = np.zeros((h, w, 3 * channels + 4))
  for i in range(h):
    for j in range(w):
      mirrored = [(top + i, left - 1 - j), (top - 1 - i, left + j), (top - 1 - i, left - 1 - j)]
      for k, there in enumerate((column > 0, row > 0, row > 0 and column > 0)):
        if there:
          result[i, j, k * channels : (k + 1) * channels] = at(*mirrored[k])
        result[i, j, 3 * channels + k] = there
      result[i, j, -1] = 1
  return result


@pytest.mark.parametrize("channels", [1, 3])
def test_the_codec_and_training_have_the_context_by_its_definition(channels):
  shape = (*SHAPE[:2], channels)
  images = drawings(channels)
  tiles, runs = tiles_of(images, shape)
  expected = np.stack(
    [
      expected_context(image, row, column, shape)
      for image in images
      for row in range(-(-image.shape[0] // shape[0]))
      for column in range(-(-image.shape[1] // shape[1]))
    ]
  )
  layout = TileLayout.from_runs(shape, runs, STEP)
  np.testing.assert_allclose(layout.context(tiles, np.arange(len(tiles)), 256), expected, atol=1e-12)
  pixels = np.concatenate([image.reshape(-1, channels) for image in images])
  crops = data.RandomCrops(pixels, SIZES, shape, neighbours=True, edges=True)
  found, contexts = grid_tiles(crops, np.arange(len(crops)))
  np.testing.assert_array_equal(found, tiles)
  np.testing.assert_array_equal(crops[:], tiles)
  np.testing.assert_allclose(contexts, expected, atol=1e-6)
  np.testing.assert_array_equal(crops.inside(np.arange(len(crops))), layout.inside)


def test_random_tiles_lie_inside_of_the_picture_or_of_its_mirror_image():
  image = drawings()[2]
  crops = data.RandomCrops(image.reshape(-1, 1), [image.shape[:2]], SHAPE, neighbours=True)
  rows, columns = image.shape[0] - 3, image.shape[1] - 7
  draws = (np.arange(rows * columns) + 0.5) / (rows * columns)
  for flip, whole in ((False, image), (True, image[:, ::-1])):
    tiles, contexts = _read_tiles(crops, crops, crops.random_places(draws), np.full(len(draws), flip))
    for (row, column), tile, context in zip(np.ndindex(rows, columns), tiles, contexts):
      np.testing.assert_array_equal(tile, whole[row : row + 4, column : column + 8])
      if column >= 8:
        left = whole[row : row + 4, column - 8 : column][:, ::-1]
        np.testing.assert_allclose(context[..., :1], left / 255 * 2 - 1, atol=1e-6)
      assert context[0, 0, 3:6].tolist() == [column >= 8, row >= 4, row >= 4 and column >= 8]


def test_a_batch_of_training_has_the_context_of_its_tiles_also_with_fewer_bits():
  images = drawings()
  crops = data.RandomCrops(np.concatenate([image.reshape(-1, 1) for image in images]), SIZES, SHAPE, neighbours=True)
  for one in (crops, ReducedBits(crops, 5)):
    batch = next(iter(data.training_batches(one, 4, seed=0, flip=True)))
    assert batch["image"].shape == (4, *SHAPE) and batch["condition"].shape == (4, 4, 8, 7)
    batch = next(iter(data.evaluation_batches(one, 3)))
    np.testing.assert_array_equal(batch["condition"], grid_tiles(one, np.arange(3))[1])
  values, reduced = (grid_tiles(images, np.arange(2))[1][1, :, :, 0] for images in (crops, ReducedBits(crops, 4)))
  np.testing.assert_allclose(reduced, (np.rint((values + 1) / 2 * 255) // 16) / 15 * 2 - 1, atol=1e-6)


def test_neighbours_are_in_lower_waves_and_those_of_another_segment_are_not_seen():
  whole = TileLayout.from_runs(SHAPE, [(17, 30, 0, 20)], STEP)
  part = TileLayout.from_runs(SHAPE, [(9, 21, 2, 3), (17, 30, 5, 9)], STEP)  # the second begins in row 1, column 1
  for layout in (whole, part):
    neighbours = layout._neighbours
    for tile, seen in enumerate(neighbours):
      assert all(layout.waves[other] < layout.waves[tile] for other in seen if other >= 0)
    assert all(len(np.unique(layout.sizes[layout.waves == wave], axis=0)) == 1 for wave in layout.waves)
    assert sorted(layout.order) == list(range(len(neighbours))) and (np.diff(layout.waves[layout.order]) <= 0).all()
  assert part._neighbours[3].tolist() == [-1, -1, -1]  # row 1, column 1 of the picture: all are before the run
  assert part._neighbours[3 + 4].tolist() == [3 + 3, 3, -1]


def test_tiles_come_back_given_their_neighbours():
  codec = small_codec()
  tiles, runs = tiles_of(drawings())
  layout = TileLayout.from_runs(SHAPE, runs, STEP)
  data_of_segment = segment.encode_fields(codec, tiles, b"more", layout=layout).to_bytes()
  decoded, extra = decode_segment(codec, data_of_segment)
  np.testing.assert_array_equal(decoded, tiles)
  assert extra == b"more"
  context = layout.context(tiles, np.arange(len(tiles)), 256)
  # The bits are those of a density given the context: without it, other tiles come out of them.
  stack = Stack(np.random.default_rng(0).integers(1 << 32, size=1 << 13, dtype=np.uint32), sealed=True)
  codec.conditioned_on(context).push(stack, tiles)
  np.testing.assert_array_equal(codec.conditioned_on(context).pop(stack.copy(), len(tiles)), tiles)
  try:
    other = codec.conditioned_on(0 * context).pop(stack, len(tiles))
  except WindowError:
    return
  assert not np.array_equal(other, tiles)


def test_the_network_of_the_context_in_fixed_point_is_that_of_keras():
  tiles, runs = tiles_of(drawings())
  context = TileLayout.from_runs(SHAPE, runs, STEP).context(tiles, np.arange(len(tiles)), 256)
  expected = model().condition_net(None, context.astype(np.float32))
  np.testing.assert_allclose(small_codec().networks.condition(context), expected, atol=1e-3)


def archive_of_files(folder, segment_images):
  for i, image in enumerate(drawings()):
    Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
  files = [reading.read_picture(folder, f"{i}.png", 1) for i in range(len(SIZES))]
  return pack_files(files, small_codec(), SHAPE, segment_images=segment_images)


@pytest.mark.parametrize("segment_images", [100, 7])
def test_files_come_back_also_those_whose_tiles_are_in_several_segments(tmp_path, segment_images):
  found = list(unpack_files(archive_of_files(tmp_path, segment_images), small_codec()))
  assert [file.name for file in found] == ["0.png", "1.png", "2.png"]
  for file, image in zip(found, drawings()):
    np.testing.assert_array_equal(file.pixels, image)


def test_a_damaged_segment_takes_no_others_with_it(tmp_path):
  written = archive_of_files(tmp_path, 10)
  beginning, segments = apart(written)
  assert len(segments) > 2
  count, content = segments[0]
  segments[0] = count, flipped(content, -1)
  found = list(unpack_files(put_together(beginning, segments), small_codec()))
  last = [file for file in found if isinstance(file, pictures.ImageFile)][-1]
  np.testing.assert_array_equal(last.pixels, drawings()[1 if len(segments) == 2 else 2])


@pytest.mark.parametrize(
  "runs",
  [
    [(9, 21, 0, 10)],  # more tiles than the picture has
    [(9, 21, 0, 9), (0, 8, 0, 1)],
    [(9, 21, 0, 9), (4, 8, 0, 0)],
    [(9, 21, 2**32 - 1, 9)],
  ],
)
def test_a_layout_that_pictures_do_not_have_is_an_error(runs):
  with pytest.raises(ValueError, match="its layout is invalid"):
    TileLayout(SHAPE, np.array(runs, RUN), STEP)


def test_an_image_of_the_model_is_a_picture_of_one_tile():
  tiles, _ = tiles_of(drawings())
  np.testing.assert_array_equal(fpp.decompress(model(), fpp.compress(model(), tiles)), tiles)


@pytest.mark.slow
def test_pictures_are_drawn_tile_by_tile_from_what_is_drawn_already():
  height, width = 6, 11
  drawn = sample_pictures(model(), 2, height, width, seed=3)
  assert drawn.shape == (2, height, width, 1)
  np.testing.assert_array_equal(sample_pictures(model(), 2, height, width, seed=3, batch_size=1), drawn)
  count = count_tiles(height, width, SHAPE)
  z = model().sample_latents(2 * count, seed=3)
  of_size = functools.cache(model().cropped)
  for n in range(2):
    # One tile after the other, in a picture of the sizes that the structure can split.
    whole = np.zeros((6, 12, 1), np.uint8)
    for tile in range(count):
      row, column = divmod(tile, 2)
      there = whole[4 * row : 4 * row + 4, 8 * column : 8 * column + 8]
      h, w, _ = there.shape
      part = of_size(h, w)
      context = expected_context(whole, row, column, SHAPE)[:h, :w]
      latents = z[n * count + tile][None, : h // 2, : w // 2]
      there[:] = part.decode(latents, condition=context[None].astype(np.float32))[0]
    np.testing.assert_array_equal(drawn[n], whole[:height, :width])


def test_a_model_of_tiles_is_trained_on_photographs_that_have_neighbours():
  images = np.zeros([40, *SHAPE], np.uint8)
  dataset = data.ImageDataset("whole", 256, images[:20], images[20:30], images[30:])
  refuses("`neighbours`", dataset.check, model().config)
  refuses("load 'whole' with --crops", dataset.with_neighbours)
  refuses("`model` must see the neighbours", sample_pictures, fpp.FlowPlusPlus.from_preset("digits"), 1, 8, 8)

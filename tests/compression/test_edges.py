"""Tiles that reach over the edges of their pictures: only what lies inside is coded, by a cropped model."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.compression import Codec, segment
from flowpp_tf.compression.stack import Stack
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.evaluation import BitMaps, PositionScorer, evaluate_bits_per_dim
from flowpp_tf.tiles.cutting import by_size, coded_sizes, to_tiles
from flowpp_tf.tiles.neighbours import TileLayout
from support.archives import decode_segment
from support.marks import slow
from support.models import GREY, SMALL, TINY, perturb, perturbed, small_config, value_and_log_det

SHAPE = (16, 16, 1)
CONFIG = small_config(
  GREY,
  image_shape=SHAPE,
  tile_neighbours=True,
  structure="squeeze,channels:1,columns:1",
  filters=8,
  condition_channels=4,
  condition_blocks=1,
)


@functools.cache
def picture(height=45, width=70):
  """A picture that is smooth with noise."""
  rng = np.random.default_rng(0)
  smooth = np.add.outer(3 * np.arange(height), 2 * np.arange(width))
  return (smooth // 2 + rng.integers(0, 9, (height, width)))[..., None].astype(np.uint8)


def layout_of(image, config=CONFIG):
  tiles = to_tiles(image, config.image_shape)
  runs = [(*image.shape[:2], 0, len(tiles))]
  return tiles, TileLayout.from_runs(config.image_shape, runs, config.tile_step)


@functools.cache
def model(**changes):
  """A small model, adapted to the tiles of the picture, whose weights of positions differ by position."""
  model = fpp.FlowPlusPlus(dataclasses.replace(CONFIG, **changes))
  tiles, layout = layout_of(picture())
  inside = np.flatnonzero((layout.sizes == SHAPE[:2]).all(axis=1))
  model.adapt({"image": tiles[inside], "condition": layout.context(tiles, inside, 256).astype(np.float32)})
  return perturb(model, 0.02)


@functools.cache
def small_codec(**changes):
  return Codec(model(**changes))


@functools.cache
def part(height, width, **changes):
  return model(**changes).cropped(height, width)


def bits_of(tiles, layout, noise, **changes):
  """The bits of each tile in the bound of the model of its size, for the upper left part of noise `[N, H, W, C]`."""
  bits, context = np.zeros(len(tiles)), layout.context(tiles, np.arange(len(tiles)), 256)
  for (h, w), some in by_size(layout.sizes):
    arrays = tiles[some, :h, :w], noise[some, :h, :w], context[some, :h, :w]
    bits[some] = -part(h, w, **changes).log_prob_bound(arrays[0], noise=arrays[1], condition=arrays[2]) / math.log(2)
  return bits


# As crops are learned; a whitened channel has up to a hundred times the scale of another.
ALIKE = {"act_norm_per_position": False, "invertible_conv_init": "whitening"}


@pytest.mark.parametrize("changes", [slow({}), ALIKE])
def test_a_picture_of_an_odd_size_comes_back_and_costs_the_bound_of_its_own_pixels(changes):
  codec, image = small_codec(**changes), picture()
  tiles, layout = layout_of(image)
  coded = segment.encode_fields(codec, tiles, layout=layout)
  np.testing.assert_array_equal(decode_segment(codec, coded.to_bytes())[0], tiles)
  assert not len(coded.left_out)
  stack = Stack(np.random.default_rng(0).integers(1 << 32, size=1 << 14, dtype=np.uint32), sealed=True)
  before, every = stack.num_bits, list(layout.order)
  stack, _, _ = segment.push_batches(codec, stack, tiles, every, None, layout)
  noise = np.random.default_rng(1).normal(size=(len(tiles), *SHAPE))
  exact, bound = (stack.num_bits - before) / image.size, bits_of(tiles, layout, noise, **changes).sum() / image.size
  whole = TileLayout.from_runs(SHAPE, [(*image.shape[:2], 0, len(tiles))], SHAPE[:2])
  larger = len(segment.encode_fields(codec, tiles, layout=whole).to_bytes())
  print(f"{exact:.4f} bits/dim, bound {bound:.4f}; {len(coded.to_bytes())} bytes, of whole tiles {larger}")
  assert abs(exact - bound) < 0.1
  assert len(coded.to_bytes()) < larger


@pytest.mark.parametrize("size", [(16, 4), (6, 16), (2, 8)])
def test_the_codec_of_a_part_is_the_codec_of_the_cropped_model(size):
  height, width = size
  tiles, layout = layout_of(picture())
  tiles, context = tiles[6:9, :height, :width], layout.context(tiles, np.arange(6, 9), 256)[:, :height, :width]
  words = []
  for codec in (small_codec(), Codec(part(height, width))):
    stack = Stack(np.random.default_rng(0).integers(1 << 32, size=1 << 13, dtype=np.uint32), sealed=True)
    codec.conditioned_on(context).push(stack, tiles)
    words.append(stack.words())
    np.testing.assert_array_equal(codec.conditioned_on(context).pop(stack, 3), tiles)
  np.testing.assert_array_equal(*words)


def test_what_repeats_outside_of_the_picture_is_put_back_and_anything_else_is_coded_plainly():
  tiles, layout = layout_of(picture())
  last = int(np.flatnonzero((layout.sizes < SHAPE[:2]).all(axis=1))[0])
  other = tiles.copy()
  other[last, -1, -1] ^= 1
  coded = segment.encode_fields(small_codec(), other, layout=layout)
  np.testing.assert_array_equal(decode_segment(small_codec(), coded.to_bytes())[0], other)


@pytest.mark.parametrize("runs", [[(33, 65, 0, 15)], [(16, 16, 0, 1)] * 15])
def test_a_layout_of_pictures_of_other_sizes_is_an_error(runs):
  tiles, layout = layout_of(picture())
  codec = small_codec()
  coded = segment.encode_fields(codec, tiles, np.random.default_rng(0).bytes(4096), layout=layout)  # no tile is plain
  other = TileLayout.from_runs(SHAPE, runs, CONFIG.tile_step)
  with pytest.raises(segment.SegmentError):
    decode_segment(codec, dataclasses.replace(coded, layout=other).to_bytes())


# Attention sees the positions that there are.
VARIANTS = {
  "published": TINY,
  "augmented": small_config(TINY, augment_channels=2, augment_blocks=1),
  "imagenet32": small_config(TINY, context_attention=True, weight_norm=True, invertible_conv="none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_log_det_of_a_cropped_model_is_that_of_its_jacobian(name):
  config = dataclasses.replace(VARIANTS[name], image_shape=(4, 8, 2), dtype="float64", dropout=0.0)
  whole = perturbed(config)
  model = whole.cropped(2, 4)
  x = tf.constant(np.random.RandomState(0).uniform(0.1, 7.9, [2, *model.config.flow_shape]))
  z, log_det = value_and_log_det(model.flow.bijector.inverse, x)
  expected = log_det - 0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=(1, 2, 3))
  np.testing.assert_allclose(model.flow.log_prob(x), expected, rtol=1e-9)
  np.testing.assert_allclose(model.flow.bijector.forward(z), x, rtol=1e-6)


def test_a_cropped_model_has_the_weights_of_its_positions():
  part, expected = model().cropped(6, 8), fpp.FlowPlusPlus(dataclasses.replace(CONFIG, image_shape=(6, 8, 1)))
  for weight, whole in zip(expected.weights, model().weights, strict=True):
    assert weight.path == whole.path
    values = np.asarray(whole)
    if weight.path.endswith(("scale", "bias", "position_embedding")) and values.ndim == 3:
      # The structure needs pairs of rows and 4 columns: rows 4 .. 13 and columns 4 .. 11 of 16 are left out.
      rows, columns = (16 // size for size in values.shape[:2])
      kept = [
        np.array([0, 1, 2, 3, 14, 15])[::rows] // rows,
        np.array([0, 1, 2, 3, 12, 13, 14, 15])[::columns] // columns,
      ]
      values = values[np.ix_(*kept)]
    weight.assign(values)
  images, condition = picture()[None, :6, :8], np.random.RandomState(0).uniform(-1, 1, [1, 6, 8, 7])
  bounds = [one.log_prob_bound(images, seed=0, condition=condition) for one in (part, expected)]
  np.testing.assert_array_equal(*bounds)


@pytest.mark.parametrize(
  "size, words",
  [((17, 8), "`height` must"), ((16, 6), "the width is"), ((3, 8), "the height is 3"), ((0, 8), "height")],
)
def test_a_size_that_the_structure_cannot_split_is_refused(size, words):
  with pytest.raises(fpp.InputError, match=words):
    model().cropped(*size)


def test_a_model_given_another_image_is_not_cropped():
  config = small_config(SMALL, condition_shape=(4, 4, 1))
  with pytest.raises(fpp.InputError, match="must not be given another image"):
    fpp.FlowPlusPlus(config).cropped(4, 4)


@pytest.mark.parametrize(
  "structure, variational",
  [
    ("squeeze,channels:1", False),
    ("squeeze,channels:1", True),
    ("columns:1", False),
    ("channels:1,squeeze", False),
    ("squeeze,columns:1,squeeze,channels:1", True),
    ("columns:1,squeeze,squeeze,channels:1", True),
  ],
)
def test_sizes_at_edges_are_multiples_of_the_smallest_that_the_structure_can_split(structure, variational):
  config = small_config(
    SMALL,
    image_shape=(16, 16, 2),
    tile_neighbours=True,
    structure=structure,
    dequantization="variational" if variational else "uniform",
  )

  def fits(height, width):
    try:
      parse_structure(structure, (height, width, 2))
    except fpp.InputError:
      return False
    return not (variational and width % 2)

  sizes = [size for size in itertools.product(range(1, 17), repeat=2) if fits(*size)]
  assert config.tile_step == (min(h for h, _ in sizes), min(w for _, w in sizes))
  assert fpp.compression.CodecModel.from_model(fpp.FlowPlusPlus(config)).tile_step == config.tile_step
  assert coded_sizes(np.array([[1, 1], [16, 40]]), SHAPE, config.tile_step).tolist() == [[*config.tile_step], [16, 16]]
  assert dataclasses.replace(config, tile_neighbours=False).tile_step == (16, 16)


@pytest.mark.slow
def test_a_map_has_the_bits_of_the_picture_s_own_pixels():
  image = picture(32, 42)  # several tiles of each size
  tiles, layout = layout_of(image)
  (bits,) = BitMaps(model(), seed=3)([image])
  noise = np.repeat(PositionScorer(model(), 1, 3)._noise, len(tiles), axis=0)
  assert bits.shape == image.shape[:2]
  np.testing.assert_allclose(bits.sum(), bits_of(tiles, layout, noise).sum(), rtol=1e-5)


def test_bits_per_dim_of_tiles_at_edges_are_those_of_the_values_inside():
  image = picture(16, 26)
  tiles, layout = layout_of(image)
  context = layout.context(tiles, np.arange(len(tiles)), 256).astype(np.float32)
  result = evaluate_bits_per_dim(model(), tiles, seed=5, conditioning={"condition": context}, inside=layout.inside)
  noise = model().sample_noise([len(tiles)], fold_in(fold_in(fold_in(as_seed(5), 0), 0), NOISE)).numpy()
  bits = bits_of(tiles, layout, noise)
  mean = bits.sum() / image.size
  np.testing.assert_allclose(result.bounds[0].bits_per_dim, mean, rtol=1e-5)
  np.testing.assert_allclose(sum(result.terms.values()), mean, rtol=1e-5)
  values = np.prod(layout.inside, axis=1)
  error = np.std(bits - mean * values, ddof=1) / math.sqrt(len(tiles)) / values.mean()  # of a ratio of means
  np.testing.assert_allclose(result.bounds[0].standard_error, error, rtol=1e-4)
  with pytest.raises(fpp.InputError, match="`inside` must be integers from 1"):
    evaluate_bits_per_dim(model(), tiles, conditioning={"condition": context}, inside=layout.inside + 1)

"""The bars: what lossless codecs need for the same images."""

import bz2
import lzma

import numpy as np
import pytest

from flowpp_tf import data, evaluation
from flowpp_tf.evaluation import codecs
from support.files import encoded
from support.marks import slow

pytestmark = pytest.mark.needs("imagecodecs")


def test_png_is_that_of_another_encoder():
  images = data.load_dataset("photos").test[:10]
  png = evaluation.measure_codecs(images)[0]
  sizes = [8 * len(encoded("PNG", image, optimize=True)) / image.size for image in images]
  assert png.codec == "PNG"
  np.testing.assert_allclose(png.each, np.mean(sizes), rtol=0.02)  # filters are chosen by other rules
  np.testing.assert_allclose(png.standard_error, np.std(sizes, ddof=1) / 10**0.5, rtol=0.05)


@pytest.mark.parametrize("channels", [1, slow(3)])
def test_nothing_is_lost_and_a_sheet_costs_less_than_files(channels, monkeypatch):
  monkeypatch.setattr(codecs, "_SIDE", 100)  # 3 x 3 images on a sheet
  images = data.load_dataset("photos").test[:20, ..., :channels]
  sheets = list(codecs._sheets(images))
  assert [sheet.shape[:2] for sheet in sheets] == [(96, 96), (96, 96), (32, 64)]
  import imagecodecs

  decode = {
    "PNG": imagecodecs.png_decode,
    "WebP": imagecodecs.webp_decode,
    "JPEG XL": imagecodecs.jpegxl_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    "bzip2": lambda data: np.frombuffer(bz2.decompress(data), np.uint8),
    "xz": lambda data: np.frombuffer(lzma.decompress(data), np.uint8),
  }
  found = codecs._codecs(images.dtype, channels)
  assert [*found] == [*decode]
  for name, encode in found.items():
    image = decode[name](encode(images[3])).reshape(32, 32, -1)
    np.testing.assert_array_equal(image[..., :channels], images[3])
  for result in evaluation.measure_codecs(images):
    assert 0 < result.sheet < result.each < 9


def test_of_tiles_only_what_is_inside_of_the_picture_counts():
  """Noise, which nothing compresses, of a picture that is one pixel larger than a tile: most tiles are padding."""
  picture = np.random.RandomState(0).randint(0, 256, [33, 33, 1]).astype(np.uint8)
  tiles = data.RandomCrops(picture.reshape(-1, 1), [(33, 33)], (32, 32, 1), neighbours=True, edges=True)
  inside = tiles.inside(np.arange(4))
  assert inside.tolist() == [[32, 32], [32, 1], [1, 32], [1, 1]]
  parts = [tiles[i][:rows, :columns] for i, (rows, columns) in enumerate(inside)]
  sizes = [evaluation.codec_bytes(part) for part in parts]
  for result in evaluation.measure_codecs(tiles, inside):
    bits = 8 * np.array([size[result.codec] for size in sizes])
    assert result.each == pytest.approx(bits.sum() / 33**2) and result.each > 8 and result.sheet > 8
    rest = bits / (33**2 / 4) - result.each * np.prod(inside, axis=1) / (33**2 / 4)
    assert result.standard_error == pytest.approx(rest.std(ddof=1) / 2)


@pytest.mark.parametrize("shape", [(30, 1), (1, 30), (30, 30), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 7, 29, 50, 301])
def test_sheets_have_all_images_and_are_not_larger_than_codecs_take(shape, count, monkeypatch):
  monkeypatch.setattr(codecs, "_SIDE", 100)
  height, width = shape
  images = np.arange(1, count + 1, dtype=np.uint16)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones(
    [height, width, 1], np.uint16
  )
  found = [sheet[::height, ::width].ravel() for sheet in codecs._sheets(images) if max(sheet.shape) <= 100]
  np.testing.assert_array_equal(np.concatenate([values[values > 0] for values in found]), images[:, 0, 0, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_16_bits_are_coded_with_all_of_them(channels):
  images = np.random.RandomState(0).randint(0, 1 << 16, [3, 8, 8, channels]).astype(np.uint16)
  results = {result.codec: result.each for result in evaluation.measure_codecs(images)}
  assert "WebP" not in results and min(results.values()) >= 16  # noise that nothing compresses
  assert evaluation.codec_bytes(images[0]).keys() == results.keys()


def test_other_numbers_of_channels_are_refused():
  with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
    evaluation.measure_codecs(np.zeros([1, 8, 8, 4], np.uint8))

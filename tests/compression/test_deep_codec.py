"""Images of 9 to 16 bits in the codec: the code length is the bound, archives of arrays and files come back."""

import dataclasses
import functools
import io

import mpmath
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf import compression
from flowpp_tf.compression import maps
from flowpp_tf.compression.codec import INITIAL_BITS, STEP, Resolution
from flowpp_tf.compression.files import folder, reading
from flowpp_tf.compression.stack import Stack
from flowpp_tf.compression.steps import SIGMA
from flowpp_tf.io import deep_image
from flowpp_tf.io.budget import Budget, use
from flowpp_tf.io.deep_image import read_deep
from support import archives
from support import programs as program_calls
from support.archives import pack_files, unpack_files
from support.files import fits, npy, png_chunk, tiff
from support.marks import quick_rows
from support.models import GREY, perturb, small_config

pytestmark = pytest.mark.needs("constriction")

LEVELS = 1 << 16
CONFIG = small_config(GREY, levels=LEVELS)
VARIANTS = {
  "plain logit": CONFIG,
  "asinh": small_config(CONFIG, pixel_transform="asinh", dequantization="uniform"),
  "12 bits": small_config(CONFIG, levels=4096),
  "augmented": small_config(
    CONFIG, pixel_transform="asinh", augment_channels=1, structure="channels:1,squeeze,channels:1"
  ),
}


def frames(count, seed=0, levels=LEVELS):
  rng = np.random.default_rng(seed)
  images = levels // 64 + rng.poisson(levels // 160, [count, 4, 4, 1]) + np.rint(6 * rng.normal(size=[count, 4, 4, 1]))
  bright = rng.random(images.shape) < 0.05
  return np.where(bright, rng.integers(0, levels, images.shape), images).astype(np.uint16)


@functools.cache
def model(name="asinh"):
  made = fpp.FlowPlusPlus(VARIANTS[name])
  made.initialize(frames(256, levels=made.config.levels))
  return perturb(made, 0.01)


@functools.cache
def small_codec(name="asinh"):
  return compression.Codec(model(name))


@pytest.mark.parametrize("levels", [2, 17, 255, 256])
def test_images_of_8_bits_keep_their_grid(levels):
  """Archives of them are decoded bit for bit."""
  assert Resolution.from_levels(levels) == Resolution(STEP, SIGMA, INITIAL_BITS)


@pytest.mark.parametrize("levels", [257, 1024, 4096, 65536])
def test_the_noise_of_the_logits_is_as_wide_in_steps_as_at_8_bits(levels):
  fine, slope = Resolution.from_levels(levels), 0.9 / levels  # of the logit, without what all levels have the same
  assert fine.sigma * np.sqrt(slope) / fine.step >= 0.99 * SIGMA * np.sqrt(0.9 / 256) / STEP


@pytest.mark.parametrize("name", quick_rows(VARIANTS, ["12 bits"]))
def test_the_code_length_is_the_bound(name):
  """Within 0.01 bits/dim: means over draws of the noise, which the codec takes from its stack."""
  made, images = model(name), frames(256, seed=1, levels=VARIANTS[name].levels)
  wide = fpp.FlowPlusPlus(dataclasses.replace(made.config, dtype="float64"))
  wide.set_weights(made.get_weights())
  # Of latents beyond some 5.8 standard deviations the codec takes fewer bits: no integer has less than 2^-24.
  usual = np.abs(wide.encode(images, seed=0)).max(axis=(1, 2, 3)) < 4.5
  assert usual.mean() > 0.3
  images, copies = images[usual], 8
  draws = np.array([wide.bits_per_dim(images, seed=seed) for seed in range(copies)])
  coded = np.concatenate([images] * copies)
  words = np.random.default_rng(0).integers(1 << 32, size=2 * coded.size + 8, dtype=np.uint32)
  stack = Stack(words, sealed=True)
  before = stack.num_bits
  small_codec(name).push(stack, coded)
  bits = (stack.num_bits - before) / coded.size
  error = draws.mean(axis=1).std() * np.sqrt(2 / copies)
  assert abs(bits - draws.mean()) < 0.01 + 4 * error and error < 0.01


@pytest.mark.parametrize("name", VARIANTS)
def test_archives_of_16_bits_come_back(name):
  images = frames(80, seed=2, levels=VARIANTS[name].levels)
  data = fpp.compress(small_codec(name), images, embed_model=True)
  decoded = fpp.decompress(None, data)
  assert decoded.dtype == np.uint16
  np.testing.assert_array_equal(decoded, images)
  np.testing.assert_array_equal(fpp.decompress(model(name), data, start=70), images[70:])
  with pytest.raises(compression.LostImagesError) as error:
    fpp.decompress(None, data[:-50])
  assert error.value.images.dtype == np.uint16
  np.testing.assert_array_equal(error.value.images, images)


@pytest.mark.parametrize(
  "images, message",
  [
    (np.zeros([1, 4, 4, 1], np.uint8), "`images` must be uint16, got uint8"),
    (np.zeros([1, 4, 3, 1], np.uint16), r"`images` must be of shape \[N, 4, 4, 1\]"),
  ],
)
def test_images_of_another_depth_or_shape_are_refused(images, message):
  writer = compression.ArchiveWriter(io.BytesIO(), small_codec())
  with pytest.raises(fpp.InputError, match=message):
    writer.write_segments([compression.archive.SegmentContent(images)])


def transform():
  return maps.AsinhTransform(LEVELS, "asinh", 0.02, 0.0005)


def test_the_transform_is_that_of_the_bijector_and_of_mpmath():
  x = np.concatenate([np.linspace(0, LEVELS, 101), 1310.72 + np.linspace(-50, 50, 51)])
  y, slope = transform().forward(x)
  bijector = fpp.bijectors.AsinhTransform(np.float64(0.02), np.float64(0.0005), LEVELS)
  np.testing.assert_allclose(y, bijector.forward(tf.constant(x)), rtol=1e-10, atol=1e-6)
  np.testing.assert_allclose(np.log(slope), bijector.forward_log_det_jacobian(tf.constant(x), 0), rtol=0, atol=1e-9)
  ends = [mpmath.asinh((mpmath.mpf(v) - mpmath.mpf(0.02)) / mpmath.mpf(0.0005)) for v in (0, 1)]
  h = lambda v: mpmath.asinh((mpmath.mpf(v) / LEVELS - mpmath.mpf(0.02)) / mpmath.mpf(0.0005))
  truth = [float(LEVELS * (h(v) - ends[0]) / (ends[1] - ends[0])) for v in x]
  np.testing.assert_allclose(y, truth, rtol=0, atol=1e-7)
  back, slope_there = transform().inverse(y)
  np.testing.assert_allclose(back, x, rtol=0, atol=1e-6)
  np.testing.assert_allclose(slope_there, slope, rtol=1e-8)


@pytest.mark.parametrize("fields", [("sqrt", 0.0, 1.0), ("asinh", -1.0, 1.0), ("asinh", 0.0, 0.0), ("asinh", 0.0, 1e9)])
def test_a_transform_that_is_none_is_an_error(fields):
  with pytest.raises(ValueError, match="the pixel transform .* is invalid"):
    maps.AsinhTransform(LEVELS, *fields)


def test_the_hash_of_a_model_has_its_transform():
  plain = compression.CodecModel.from_model(model("plain logit"))
  assert "transform" not in plain.description
  described = compression.CodecModel.from_model(model()).description["transform"]
  assert described == model().pixel_transform.describe()


# --- Files --------------------------------------------------------------------------------------


def write(path, pixels):
  from PIL import Image

  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def test_files_of_16_bits_are_coded_and_others_kept(tmp_path):
  tifffile = pytest.importorskip("tifffile")
  deep = {"a.png": frames(1, seed=5)[0].repeat(3, axis=0), "b.tif": frames(1, seed=6)[0].repeat(2, axis=1)}
  write(tmp_path / "a.png", deep["a.png"])
  tifffile.imwrite(tmp_path / "b.tif", deep["b.tif"][..., 0], metadata=None)
  write(tmp_path / "c.png", np.zeros([4, 4, 1], np.uint8))
  np.save(tmp_path / "d.npy", frames(1)[0].astype(np.float32))
  read = lambda name: reading.read_picture(tmp_path, name, channels=1, levels=LEVELS)
  files = [read(name) for name in ("a.png", "b.tif", "c.png", "d.npy")]
  assert [file.reason for file in files] == ["", "", "another depth or format", "another depth or format"]
  decoded = list(unpack_files(pack_files(files, small_codec()), small_codec()))
  assert [item.name for item in decoded] == ["a.png", "b.tif", "c.png", "d.npy"]
  for original, item in zip(files, decoded):
    assert item.content == original.content
  for name, item in zip(deep, files):
    np.testing.assert_array_equal(item.pixels, deep[name])


# Files of 16 bits that hold pixels `[H, W, C]` in one piece.
ARRAYS = {
  "npy": npy,
  "npy, big-endian": lambda pixels: npy(pixels[..., 0].astype(">u2")),
  "fits": fits,
  "fits, signed": lambda pixels: fits(pixels.astype(np.int16)),
  "tiff": tiff,
  "tiff, big-endian": lambda pixels: tiff(pixels, byteorder=">"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_array_files_of_16_bits_come_back_byte_for_byte_from_their_pixels(tmp_path, kind):
  pixels = frames(1, seed=8)[0].repeat(2, axis=1) // 2  # signed numbers of 16 bits end at 32,767
  data = ARRAYS[kind](pixels)
  (tmp_path / "a").write_bytes(data)
  read = reading.read_picture(tmp_path, "a", channels=1, levels=LEVELS)
  assert read.reason == "" and read.pixels is not None and len(read.wrapper[0]) == len(data) - pixels.nbytes
  (back,) = unpack_files(pack_files([read], small_codec()), small_codec())
  assert back.data == data
  assert reading.read_picture(tmp_path, "a", channels=1).pixels is None  # of a model of 8 bits


@pytest.mark.parametrize("kind", ["npy", "fits", "tiff"])
def test_colour_of_16_bits_has_a_frame_in_planes_too(kind):
  pixels = np.random.default_rng(0).integers(0, 1 << 16, (5, 6, 3)).astype(np.uint16)
  data = ARRAYS[kind](pixels)
  rest, place, layout = reading.split_wrapper(data, pixels)
  assert reading.join_wrapper(rest, place, layout, pixels) == data and bool(layout & reading.PLANES) == (kind == "fits")


def test_arrays_that_are_not_in_one_piece_or_too_deep_are_kept(tmp_path):
  pixels = frames(1, seed=8)[0].repeat(2, axis=1)
  for name, data in {"a": npy(pixels.astype(np.int32)), "b": npy(pixels) + b"behind", "c": npy(pixels)}.items():
    (tmp_path / name).write_bytes(data)
  np.save(tmp_path / "d.npy", np.asfortranarray(pixels[..., 0]))
  read = lambda name: reading.read_picture(tmp_path, name, channels=1, levels=LEVELS)
  assert [read(name).pixels is not None for name in ("a", "b", "c", "d.npy")] == [False, True, True, False]
  assert read("b").wrapper[0].endswith(b"behind")  # which a frame holds too
  assert reading.read_picture(tmp_path, "c", channels=3, levels=LEVELS).reason == "another depth or format"


def missing(*names):
  raise fpp.InputError("pip install 'flowpp_tf[science]'")


def test_without_astropy_fits_files_are_kept(tmp_path, monkeypatch):
  (tmp_path / "a.fits").write_bytes(fits(frames(1)[0]))
  monkeypatch.setattr(deep_image, "import_extra", missing)
  read = reading.read_picture(tmp_path, "a.fits", channels=1, levels=LEVELS)
  assert read.data is not None and read.reason == "a package that reads it is not installed"


def test_images_larger_than_half_of_the_budget_are_read(tmp_path):
  """Two readers that each waited for the pixels of the other would never end."""
  write(tmp_path / "a.png", np.zeros([600, 600, 1], np.uint16))
  with use(Budget(pixels=500_000)):
    assert reading.read_picture(tmp_path, "a.png", channels=1, levels=LEVELS).pixels.shape == (600, 600, 1)
  with use(Budget(pixels=300_000)):  # the limit is that of pictures of 8 bits
    assert reading.read_picture(tmp_path, "a.png", channels=1, levels=LEVELS).pixels is not None


@pytest.mark.parametrize(
  "pixels", [np.zeros([600, 6], np.uint16), np.zeros([600, 6, 3], np.uint16)], ids=["grey", "rgb"]
)
def test_files_of_16_bits_whose_reader_does_not_take_them_have_the_right_reason(tmp_path, monkeypatch, pixels):
  tifffile, channels = pytest.importorskip("tifffile"), 1 if pixels.ndim == 2 else 3
  photometric = "miniswhite" if channels == 1 else "rgb"
  tifffile.imwrite(tmp_path / "a", pixels, photometric=photometric, metadata=None)
  read = lambda: reading.read_picture(tmp_path, "a", channels=channels, levels=LEVELS)
  assert read().reason == ("another depth or format" if channels == 1 else "")
  monkeypatch.setattr(deep_image, "import_extra", missing)
  assert read().reason == "a package that reads it is not installed"


def test_a_frame_that_is_larger_than_a_kept_file_is_none(tmp_path, monkeypatch):
  """A segment could not hold it: a FITS file whose first image is a small one."""
  (tmp_path / "a").write_bytes(npy(frames(1)[0]) + bytes(1000))
  monkeypatch.setattr(reading, "MAX_VERBATIM_FILE", 1000)
  assert reading.read_picture(tmp_path, "a", channels=1, levels=LEVELS).pixels is None


@pytest.mark.parametrize("made", [small_codec, archives.small_codec], ids=["16 bits", "8 bits"])
def test_the_program_writes_arrays_of_the_images_own_depth(tmp_path, made):
  images = frames(30, seed=9) if made is small_codec else archives.example_images()
  (tmp_path / "a.fpp").write_bytes(fpp.compress(made(), images, embed_model=True))
  assert program_calls.call("decompress", "a.fpp", "--output=a.npy", cwd=tmp_path).code == 0
  found = np.load(tmp_path / "a.npy")
  assert found.dtype == images.dtype
  np.testing.assert_array_equal(found, images)


def test_what_an_rgb_file_of_16_bits_says_comes_back_with_its_pixels(tmp_path):
  imagecodecs = pytest.importorskip("imagecodecs")
  pixels = np.random.default_rng(0).integers(0, 1 << 16, (5, 6, 3)).astype(np.uint16)
  png, chunk = imagecodecs.png_encode(pixels), png_chunk(b"tEXt", b"Title\0a night")
  (tmp_path / "a.png").write_bytes(png[:33] + chunk + png[33:])
  read = reading.read_picture(tmp_path, "a.png", channels=3, levels=LEVELS)
  restored = bytes(folder._content(read))
  assert chunk in restored
  np.testing.assert_array_equal(imagecodecs.png_decode(restored), pixels)


def test_an_8_bit_model_keeps_files_of_16_bits_as_they_are(tmp_path):
  write(tmp_path / "a.png", frames(1)[0])
  assert reading.read_picture(tmp_path, "a.png", channels=1).reason in ("another mode", "another depth or format")


@pytest.mark.slow
def test_the_programs_compress_and_restore_files_of_16_bits(tmp_path):
  images = frames(80, seed=7)
  fpp.train(images, config=VARIANTS["asinh"], workdir=tmp_path / "run", steps=2, batch_size=8)
  (tmp_path / "in").mkdir()
  for i, image in enumerate(images[:5]):
    write(tmp_path / "in" / f"{i}.png", image.repeat(2, axis=0))
  np.save(tmp_path / "in" / "night.npy", images[5])
  call = functools.partial(program_calls.call, cwd=tmp_path)
  result = call("compress", "--workdir=run", "--images=in", "--output=in.fpp", "--test")
  assert result.code == 0 and "6 files" in result.out
  result = call("decompress", "in.fpp", "--workdir=run", "--output=out")
  assert result.code == 0
  for i, image in enumerate(images[:5]):
    np.testing.assert_array_equal(read_deep(tmp_path / "out" / f"{i}.png", 1), image.repeat(2, axis=0))
  assert (tmp_path / "out" / "night.npy").read_bytes() == (tmp_path / "in" / "night.npy").read_bytes()
  np.savez(tmp_path / "data.npz", train=images[:60], validation=images[60:70], test=images[70:])
  result = call("compress", "--workdir=run", "--dataset=npz:data.npz", "--split=test", "--output=arrays.fpp", "--test")
  assert result.code == 0 and f"10 images, {images[70:].nbytes} bytes" in result.out

"""Files whose pixels and metadata do not say all that is in them are kept byte for byte, each with its reason."""

import functools
import struct

import numpy as np
from PIL import Image
import pytest

from flowpp_tf.compression.files import reading
from support.files import encoded as encoded_file
from support.files import exif, png_chunk

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)


def encoded(kind, pixels=PIXELS, **options):
  return encoded_file(kind, pixels, **options)


def with_chunk(kind, content):
  """A PNG with a chunk before its pixels."""
  data = encoded("PNG")
  return data[:33] + png_chunk(kind, content) + data[33:]


PPM, PNG, BMP, TIFF = (encoded(kind) for kind in ("PPM", "PNG", "BMP", "TIFF"))
WEBP = encoded("WEBP", lossless=True)
JPEG = encoded("JPEG")
PROFILE = b"\0" * 128
SRGB_CHRM = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
FRAMES = [Image.fromarray(255 - PIXELS)]
BEHIND = "bytes behind the image"
NOT_PLAIN = "its pixels are compressed or in pieces"
CASES = {
  "ppm": (PPM, ""),
  "ppm with a second image": (PPM + PPM, ""),
  "ppm with a byte more": (PPM + b"\n", ""),
  "ppm of 16 bits with a long header": (b"P6" + b" " * 64 + b"5 6 65535\n" + bytes(range(180)), NOT_PLAIN),
  "png": (PNG, ""),
  "png of 16 bits": (encoded("PNG", 256 * PIXELS[..., 0].astype(np.uint16)), "another mode"),
  "png with bytes behind IEND": (PNG + b"hello", BEHIND),
  "png with another png behind": (PNG + PNG, BEHIND),
  "png with a profile": (encoded("PNG", icc_profile=PROFILE), ""),
  "png with EXIF": (encoded("PNG", exif=exif(maker="x")), ""),
  "png turned by EXIF": (encoded("PNG", exif=exif(orientation=6)), ""),
  "png with several frames": (encoded("PNG", save_all=True, append_images=FRAMES), "several frames"),
  "png with a gamma": (with_chunk(b"gAMA", struct.pack(">I", 100000)), ""),
  "png with the gamma of sRGB": (with_chunk(b"gAMA", struct.pack(">I", 45455)), ""),
  "png with primaries": (with_chunk(b"cHRM", SRGB_CHRM[::-1]), ""),
  "png with the primaries of sRGB": (with_chunk(b"cHRM", SRGB_CHRM), ""),
  "png of HDR": (with_chunk(b"cICP", bytes([9, 16, 0, 1])), ""),
  "png with a text": (with_chunk(b"tEXt", b"Title\0x"), ""),
  "bmp": (BMP, ""),
  "bmp with bytes behind": (BMP + b"hello", ""),
  "bmp that claims 200 million pixels": (
    BMP[:22] + struct.pack("<I", 200_000_000 // 6) + BMP[26:],
    "over 268,435,456 pixel values",
  ),
  "bmp that claims 900 million pixels": (
    BMP[:22] + struct.pack("<I", 900_000_000 // 6) + BMP[26:],
    "over 268,435,456 pixel values",
  ),
  "webp": (WEBP, ""),
  "webp with bytes behind": (WEBP + b"hello", BEHIND),
  "webp with a profile": (encoded("WEBP", lossless=True, icc_profile=PROFILE), ""),
  "webp with EXIF": (encoded("WEBP", lossless=True, exif=exif(orientation=3)), ""),
  "webp with frames": (encoded("WEBP", lossless=True, save_all=True, append_images=FRAMES), "metadata"),
  "lossy webp with EXIF": (encoded("WEBP", exif=exif(orientation=3)), "lossy"),
  "tiff": (TIFF, ""),
  "tiff with bytes behind": (TIFF + bytes(2000), ""),
  "tiff with a profile": (encoded("TIFF", icc_profile=PROFILE), ""),
  "tiff turned": (encoded("TIFF", exif=exif(orientation=6)), NOT_PLAIN),
  "tiff, compressed": (encoded("TIFF", compression="tiff_lzw"), NOT_PLAIN),
  "tiff with pages": (encoded("TIFF", save_all=True, append_images=FRAMES), ""),
  "jpeg": (JPEG, "lossy"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_kept_with_a_reason_or_its_pixels_say_all(tmp_path, case):
  data, reason = CASES[case]
  (tmp_path / "a").write_bytes(data)
  found = reading.read_picture(tmp_path, "a", 3)
  assert found.reason == reason
  if reason:
    assert found.data == data
  else:
    np.testing.assert_array_equal(found.pixels, PIXELS)
  if found.wrapper is not None:
    assert reading.join_wrapper(*found.wrapper, found.pixels) == data


def test_pixels_of_lossy_files_are_coded_only_if_they_say_all(tmp_path):
  (tmp_path / "a.jpg").write_bytes(JPEG)
  (tmp_path / "turned.jpg").write_bytes(encoded("JPEG", exif=exif(orientation=6)))
  (tmp_path / "two.jpg").write_bytes(JPEG + b"hello")
  reasons = {
    name: reading.read_picture(tmp_path, name, 3, lossy_pixels=True).reason
    for name in ("a.jpg", "turned.jpg", "two.jpg")
  }
  assert reasons == {"a.jpg": "", "turned.jpg": "", "two.jpg": BEHIND}


@pytest.mark.parametrize("name, reason", [("n" * 251, ""), ("n" * 252, "long name"), ("n" * 251 + ".png", "")])
def test_a_name_that_png_would_make_too_long_is_kept(tmp_path, name, reason):
  (tmp_path / name).write_bytes(PNG)
  assert reading.read_picture(tmp_path, name, 3).reason == reason


def test_fitting_pictures_of_odd_sizes_are_all_tried_by_the_model(tmp_path):
  """What the model does not code has another mode or depth; a picture of any size that it has is measured."""
  rgb = np.random.RandomState(0).randint(0, 256, [40, 70, 3]).astype(np.uint8)
  sizes = [(1, 1), (1, 2), (1, 70), (40, 1), (3, 5), (8, 8), (9, 17), (40, 70)]
  measured = []
  for height, width in sizes:
    for suffix in ("png", "bmp", "ppm", "tif"):
      name = f"{height}x{width}.{suffix}"
      Image.fromarray(rgb[:height, :width].copy()).save(tmp_path / name)
      found = reading.read_picture(tmp_path, name, 3, bits=lambda pixels: measured.append(pixels.shape) or 0)
      assert found.reason == "" and found.fallback is not None, name
  assert measured == [(*size, 3) for size in sizes for _ in range(4)]
  others = {"palette": Image.fromarray(rgb).quantize(8), "alpha": Image.fromarray(rgb).convert("RGBA")}
  others |= {"grey": Image.fromarray(rgb[..., 0]), "deep": Image.fromarray(256 * rgb[..., 0].astype(np.uint16))}
  for name, image in others.items():
    image.save(tmp_path / f"{name}.png")
    assert reading.read_picture(tmp_path, f"{name}.png", 3, bits=lambda pixels: 0).reason == "another mode"


def test_grey_files_of_each_format_are_coded(tmp_path):
  for kind in ("PPM", "PNG", "BMP", "TIFF"):
    (tmp_path / "a").write_bytes(encoded(kind, PIXELS[..., 0]))
    assert reading.read_picture(tmp_path, "a", 1).reason == "", kind


@pytest.mark.parametrize(
  "pixels, options",
  [
    (np.zeros((5, 6, 4), np.uint8), dict(photometric="rgb", extrasamples=["unspecified"])),
    (np.zeros((5, 6, 5), np.uint8), dict(photometric="rgb", extrasamples=["unspecified"] * 2)),
    (np.zeros((5, 6), np.int8), {}),
    (np.zeros((5, 6), np.float32), {}),
  ],
  ids=["4 channels", "5 channels", "signed", "real"],
)
def test_channels_and_signs_that_pillow_drops_come_back(tmp_path, pixels, options):
  tifffile = pytest.importorskip("tifffile")
  tifffile.imwrite(tmp_path / "a", pixels, metadata=None, **options)
  found = reading.read_picture(tmp_path, "a", 3 if pixels.ndim == 3 else 1)
  whole = found.data if found.wrapper is None else reading.join_wrapper(*found.wrapper, found.pixels)
  assert whole == (tmp_path / "a").read_bytes()


def test_a_file_that_its_pixels_coded_would_exceed_is_kept(tmp_path):
  """A model that has learned nothing takes more than 8 bits per dimension of noise."""
  noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
  for name, pixels in {
    "flat": np.full((64, 64), 7, np.uint8),
    "noise": noise,
    "few": noise[:8, :8] // 128 * 255,
  }.items():
    (tmp_path / name).write_bytes(encoded("PNG", pixels))
  read = functools.partial(reading.read_picture, tmp_path, channels=1, bits=lambda pixels: 9 * pixels.size)
  reasons = {name: read(name).reason for name in ("flat", "noise", "few")}
  assert reasons == {"flat": reading.SMALLER, "noise": reading.SMALLER, "few": ""}
  assert reading.read_picture(tmp_path, "flat", 1).reason == ""

# %% [markdown]
# # Compression without loss
#
# A likelihood is a code length: an archive is about as small as the bound of its images, and every pixel comes
# back. `pip install 'flowpp_tf[compression]'` installs the entropy coder.

# %%
import io

import numpy as np
from PIL import Image

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset

# %%
model = fpp.FlowPlusPlus.from_preset("digits")
digits = load_dataset("digits").train[:200]

# %%
archive = fpp.compress(model, digits)
again = fpp.decompress(model, archive)
print("every pixel comes back:", bool(np.array_equal(again, digits)))
assert np.array_equal(again, digits)
print(f"{len(archive):,} bytes for {len(digits)} images, {8 * len(archive) / digits.size:.3f} bits per pixel value")
bound = float(np.mean(model.bits_per_dim(digits, seed=0)))
constant = len(archive) - bound * digits.size / 8
print(f"the bound: {bound:.3f} bits per pixel value; the archive has {constant:.0f} bytes more")
assert 0 < constant < 1000

# %% [markdown]
# Beside it the codecs that people use, all images on one sheet, so that headers count once:

# %%
sheet = Image.fromarray(digits[..., 0].reshape(10, 20, 8, 8).swapaxes(1, 2).reshape(80, 160) * 15)
for name, options in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "quality": 100, "method": 6})):
  file = io.BytesIO()
  sheet.save(file, format=name, **options)
  print(f"{name}: {file.tell():,} bytes")
  assert len(archive) < file.tell()

# %% [markdown]
# A damaged archive is never decoded to other images without a word:

# %%
damaged = bytearray(archive)
damaged[len(damaged) // 2] ^= 1
try:
  fpp.decompress(model, bytes(damaged))
  raise AssertionError("a damaged archive was decoded")
except ValueError as error:
  print("refused:", error)

# %% [markdown]
# `flowpp-compress` does the same with folders of files. Which images it pays for, the tiers, speeds and the
# format byte by byte: [lossless compression](../compression.md).

# %% [markdown]
# # Your own photographs
#
# Any folder of image files trains a model, which then has samples and bits/dim. A folder is made here so that this
# page runs anywhere; use yours instead.

# %%
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
import skimage.data

import flowpp_tf as fpp

# %%
folder = pathlib.Path(tempfile.mkdtemp()) / "photographs"
folder.mkdir()
for name in ("astronaut", "chelsea", "coffee", "rocket"):
  photograph = getattr(skimage.data, name)()
  for row in range(0, photograph.shape[0] - 95, 96):
    for column in range(0, photograph.shape[1] - 95, 96):
      Image.fromarray(photograph[row : row + 96, column : column + 96]).save(folder / f"{name}_{row}_{column}.png")
print(len(list(folder.iterdir())), "files")

# %% [markdown]
# `fpp.train` takes a folder as the name of a data set. A hash of each file's name decides its split, so that a
# file stays where it is when others are added. With `crops` each step trains on random crops of the files; without it
# they are made smaller. `init_from` begins with the preset `photos` instead of random weights, which saves an hour. A
# run takes 2,500 steps; a few show how it goes. `workdir` keeps the run: the same call resumes it, after a kill too.

# %%
model = fpp.train(
  f"folder:{folder}",
  config="photos_crops",
  crops=True,
  workdir=folder.parent / "run",
  init_from="photos",
  steps=8,
  batch_size=8,
  validate_every=4,
  learning_rate=1e-4,
  tensorboard=(),
)

# %%
images = model.sample(16, temperature=0.9, seed=0).numpy()
figure, axes = plt.subplots(2, 8, figsize=(8, 2.2))
for axis, image in zip(axes.flat, images):
  axis.imshow(image)
  axis.axis("off")
plt.show()

# %% [markdown]
# The model is a distribution of integer images. Bits/dim are the bits per pixel value of the best code for an
# image: a photo that is like those of training takes fewer than noise.

# %%
photo = np.asarray(Image.open(folder / "astronaut_96_192.png"))[32:64, 32:64]
noise = np.random.RandomState(0).randint(0, 256, [32, 32, 3]).astype(np.uint8)
scores = model.bits_per_dim(np.stack([photo, noise]), num_samples=4, seed=0).numpy()
for name, bits in zip(("a photograph", "noise"), scores):
  print(f"{name}: {bits:.2f} bits/dim")
assert scores[0] < 8 < scores[1]  # 8 bits a pixel value is what storing it as it is takes

# %% [markdown]
# On the command line the same run is
#
#     flowpp-train --config=photos_crops --dataset=folder:photographs --init_from=photos --workdir=run
#     flowpp-sample --workdir=run --n=64
#     flowpp-demo --workdir=run

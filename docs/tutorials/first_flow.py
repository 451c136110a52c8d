# %% [markdown]
# # The first flow
#
# A normalizing flow is an invertible function from data to noise, whose density is exact. Here one learns the two
# moons, a distribution of vectors of two numbers, in half a minute; then the same ideas make an image model.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets

import flowpp_tf as fpp

# %%
keras.utils.set_random_seed(0)
moons = lambda count, seed: sklearn.datasets.make_moons(count, noise=0.08, random_state=seed)[0].astype("float32")

# %% [markdown]
# `VectorFlow` is a Keras layer with four couplings of Flow++: each passes half of the numbers through the CDF of
# a mixture of logistics, whose parameters a small network computes from the other half. `loss` of Keras is the
# negative log-likelihood.

# %%
flow = fpp.VectorFlow(event_size=2, couplings=4)
inputs = keras.Input([2])
model = keras.Model(inputs, flow(inputs))  # the log-likelihood of each vector
model.compile(keras.optimizers.Adam(4e-3), loss=lambda _, log_prob: -log_prob)
data = moons(20_000, seed=0)
history = model.fit(data, np.zeros(len(data)), batch_size=256, epochs=4, verbose=0)
losses = history.history["loss"]
print("nats, by epoch:", [round(loss, 3) for loss in losses])
assert losses[-1] < losses[0] - 0.3

# %% [markdown]
# The density is exact: over the plane it integrates to 1. That is how a likelihood differs from a score.

# %%
side = np.linspace(-4, 5, 400, dtype="float32")
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
density = np.exp(flow.distribution.log_prob(plane)).reshape(400, 400)
integral = float(density.sum() * (side[1] - side[0]) ** 2)
print("integral:", round(integral, 3))
assert abs(integral - 1) < 0.02

# %%
samples = flow.distribution.sample(2000, seed=1).numpy()
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
axes[0].imshow(density, origin="lower", extent=(-4, 5, -4, 5), cmap="viridis")
axes[0].set(title="density", xlim=(-2, 3), ylim=(-1.5, 2))
axes[1].scatter(*samples.T, s=2)
axes[1].set(title="2,000 samples", xlim=(-2, 3), ylim=(-1.5, 2), aspect="equal")
plt.show()

# %% [markdown]
# An image model is the same, with images instead of vectors, convolution and self-attention in the networks, and
# one more flow that spreads integer pixels over the reals (variational dequantization). This one ships with the
# package:

# %%
digits = fpp.FlowPlusPlus.from_preset("digits")
images = digits.sample(8, temperature=0.8, seed=0).numpy()
latents = digits.encode(images, seed=0)
again = digits.decode(latents).numpy()
print("every pixel comes back:", bool(np.all(again == images)))
assert np.array_equal(again, images)
figure, axes = plt.subplots(1, 8, figsize=(8, 1.2))
for axis, image in zip(axes, images):
  axis.imshow(image[..., 0], cmap="gray")
  axis.axis("off")
plt.show()

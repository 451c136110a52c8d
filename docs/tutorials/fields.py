# %% [markdown]
# # Real-valued fields: a density that can be checked
#
# A flow gives real-valued images, such as simulated fields or calibrated measurements, an exact density: no integers,
# no noise, no bound. The fields here are Gaussian and live on a torus, so that their density is known, and we can see
# how good the model's is.

# %%
import numpy as np

import flowpp_tf as fpp
from flowpp_tf.data import GaussianFields
from flowpp_tf.data.gaussian_fields import expected_log_prob, field_log_prob, power_spectrum

# %% [markdown]
# A Gaussian random field is white noise whose Fourier modes are multiplied by the square root of a spectrum. Field n of
# `GaussianFields` follows from the seed and n, so there are as many as we like.

# %%
spectrum = power_spectrum(16, slope=3.0)
train, test = (GaussianFields(count, spectrum, seed)[:] for seed, count in enumerate((8192, 512)))
dims = test[0].size
print("fields:", train.shape, train.dtype)

# %% [markdown]
# Three lines make a distribution and train it. Couplings that are affine suffice for Gaussian fields, and
# `padding="periodic"` says that they live on a torus. `fit` first measures mean and standard deviation of each channel:
# the unit of the data does not matter, and its log-det is part of the density.

# %%
flow = fpp.image_flow((16, 16, 1), coupling="affine", padding="periodic", filters=16)
result = fpp.fit(flow, train, validation=test, steps=400, batch_size=64, learning_rate=4e-3, weight_decay=0)
print(f"validation: {result.validation.max() / dims:.4f} nats/dim")

# %% [markdown]
# The KL divergence of the model from the truth is the mean difference of the two log densities. Longer training brings
# it down further: `configs/random_field.flags` is the recipe for 32x32.

# %%
found = flow.log_prob(test).numpy()
kl = np.mean(field_log_prob(test, spectrum) - found) / dims
print(f"KL(analytic || model): {kl:.4f} nats/dim")
assert 0 < kl < 0.03

# %% [markdown]
# The other way round: the truth's log density of the model's samples, compared with its mean over true fields.

# %%
samples = flow.sample(512, seed=0).numpy()
print(f"analytic log density of samples: {np.mean(field_log_prob(samples, spectrum)) / dims:.3f} nats/dim")
print(f"of true fields: {expected_log_prob(spectrum)[0] / dims:.3f} nats/dim")

# %% [markdown]
# On a torus no place is the first one. The density does not change when a field is rolled by whole blocks of the
# structure's squeezes, here 4 positions.

# %%
rolled = flow.log_prob(np.roll(test, (4, 8), axis=(1, 2))).numpy()
print("rolling changes the log density by less than 0.01 nats:", bool(np.abs(rolled - found).max() < 0.01))

# %% [markdown]
# The same as a model with a recipe, checkpoints and programs is a config with `dequantization="none"`: see
# [real-valued fields](../../fields/), which has fields given parameters, and parameters given a field, too.

# %% [markdown]
# # Flow++ couplings in your TFP model
#
# Every component is a `tfp.bijectors.Bijector`, every flow a `tfp.distributions.Distribution`. So they go where
# those of TFP go: here into a posterior that is curved, with a conditional flow, and into a chain with TFP's own
# bijectors.

# %%
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb

tfb, tfd = tfp.bijectors, tfp.distributions

# %%
keras.utils.set_random_seed(0)

# %% [markdown]
# ## A density given a context
#
# `given` puts the context into the distribution: its batch shape is that of the context, and `log_prob`,
# `sample`, slices and mixtures follow TFP's rules. The data are y = sin(x) with noise that grows with x.

# %%
layer = fpp.VectorFlow(event_size=2, context_size=1, couplings=4, hidden=32)  # a Keras layer, so that `fit` trains it
x = np.random.RandomState(0).uniform(-3, 3, [20_000, 1]).astype("float32")
noise = np.random.RandomState(1).randn(20_000, 2) * (0.05 + 0.2 * np.abs(x))
y = (np.concatenate([np.sin(x), np.cos(x)], axis=1) + noise).astype("float32")
event, context = keras.Input([2]), keras.Input([1])
model = keras.Model([event, context], layer(event, context))
model.compile(keras.optimizers.Adam(3e-3), loss=lambda _, log_prob: -log_prob)
history = model.fit([y, x], np.zeros(len(y)), batch_size=256, epochs=4, verbose=0)
print("nats, by epoch:", [round(loss, 3) for loss in history.history["loss"]])
flow = layer.distribution

# %%
at = flow.given(tf.constant([[0.0], [1.5], [3.0]]))
samples = at.sample(4000, seed=3).numpy()
print("batch shape:", at.batch_shape)
print("means:", samples.mean(axis=0).round(2).tolist(), "expected", [[0, 1], [1.0, 0.07], [0.14, -0.99]])
print("standard deviations:", samples.std(axis=0).round(2).tolist(), "expected", [0.05, 0.35, 0.65])

# %% [markdown]
# ## One coupling among TFP's bijectors
#
# A coupling takes any callable that maps the one half to parameters. Forward is written from data to latents;
# `fb.Invert` turns it around. The log-det agrees with that of automatic differentiation.

# %%
dense = keras.layers.Dense(2 * (2 + 3 * 4))
dense.build([None, 2])
coupling = fb.Coupling(
  dense, lambda parameters: fb.mixture_logistic_coupling_bijector(parameters, components=4), event_ndims=1
)
chain = tfb.Chain([tfb.Softplus(), fb.Invert(coupling), tfb.Scale([1.0, 2.0, 0.5, 1.5])])
distribution = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 4), chain)
point = tf.constant(distribution.sample(3, seed=4).numpy())  # a copy: TFP knows which latents a sample came from
with tf.GradientTape() as tape:
  tape.watch(point)
  latents = chain.inverse(point)
jacobian = tape.batch_jacobian(latents, point)
by_autodiff = tfd.Sample(tfd.Normal(0.0, 1.0), 4).log_prob(latents) + tf.linalg.slogdet(jacobian).log_abs_determinant
print("log_prob: ", distribution.log_prob(point).numpy().round(4))
print("autodiff: ", by_autodiff.numpy().round(4))
np.testing.assert_allclose(distribution.log_prob(point), by_autodiff, rtol=1e-3, atol=1e-3)

# %% [markdown]
# # Flow++ couplings in your TFP model
#
# Every component is a `tfp.bijectors.Bijector`, every flow a `tfp.distributions.Distribution`. So they go where
# those of TFP go: here a conditional flow learns a density given a context, and a single coupling goes into a chain
# with TFP's own bijectors.

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
# `sample`, slices and mixtures follow TFP's rules. The data are points (sin x, cos x) on a circle, with normal noise
# whose standard deviation grows with the distance of x from 0. So mean and deviation given x are known, and so is the
# smallest loss that a model can reach: the entropy of the noise.

# %%
layer = fpp.VectorFlow(event_size=2, context_size=1, couplings=4, hidden=32)  # a Keras layer, so that `fit` trains it
x = np.random.RandomState(0).uniform(-3, 3, [20_000, 1]).astype("float32")
circle = lambda x: np.concatenate([np.sin(x), np.cos(x)], axis=1)
deviation = lambda x: 0.05 + 0.2 * np.abs(x)
y = (circle(x) + deviation(x) * np.random.RandomState(1).randn(20_000, 2)).astype("float32")
event, context = keras.Input([2]), keras.Input([1])
model = keras.Model([event, context], layer(event, context))
rate = keras.optimizers.schedules.CosineDecay(5e-3, 4 * len(y) // 256)
model.compile(keras.optimizers.Adam(rate), loss=lambda _, log_prob: -log_prob)
history = model.fit([y, x], np.zeros(len(y)), batch_size=256, epochs=4, verbose=0)
entropy = float(np.mean(2 * np.log(deviation(x)) + np.log(2 * np.pi * np.e)))
print("nats, by epoch:", [round(loss, 3) for loss in history.history["loss"]], f"the entropy: {entropy:.3f}")
assert entropy - 0.02 < history.history["loss"][-1] < entropy + 0.1
flow = layer.distribution

# %%
contexts = np.array([[0.0], [1.5], [-2.5]], np.float32)
at = flow.given(contexts)
samples = at.sample(4000, seed=3).numpy()
print("batch shape:", at.batch_shape)
for context, mean, std in zip(contexts, samples.mean(axis=0), samples.std(axis=0)):
  print(
    f"x = {context[0]:4}: mean {mean.round(2)}, true {circle(context[None])[0].round(2)}; "
    f"standard deviations {std.round(2)}, true {deviation(context).round(2)}"
  )
np.testing.assert_allclose(samples.mean(axis=0), circle(contexts), atol=0.1)
np.testing.assert_allclose(samples.std(axis=0), np.tile(deviation(contexts), 2), atol=0.1)

# %% [markdown]
# ## One coupling among TFP's bijectors
#
# A coupling takes any callable that maps the one half of an event to the parameters of the other: here for each of
# its 2 values the 2 numbers of the affine map, and 3 for each of the 4 components of the mixture. Forward is written
# from data to latents; `fb.Invert` turns it around. The log-det agrees with that of automatic differentiation, and
# `distribution.trainable_variables` has the weights of the network, for an optimizer of yours.

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

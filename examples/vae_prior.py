"""Train a VAE of Keras with Flow++ as the prior of its latents, and the same VAE with the standard normal prior.

python examples/vae_prior.py

The images are scikit-learn's digits, the likelihood is categorical over the 17 pixel values. The prior is a layer of
the model, which Keras trains together with encoder and decoder. It printed, for the 180 test images:

    | prior | ELBO | importance-weighted bound, 256 samples |
    |---|---|---|
    | normal | -96.35 +- 0.76 | -94.61 +- 0.75 |
    | flow | -95.51 +- 0.81 | -94.06 +- 0.79 |
    | difference, paired | 0.84 +- 0.13 | 0.54 +- 0.13 |

In nats per image, mean of three seeds, standard errors over the images; the ELBO differs by 1.10, 0.68 and 0.74 for the
seeds. Latents and epochs were chosen on the validation images, when the flow's mixtures began closer together. There it
gained nothing with 4 or 8 latents after 60 epochs (-0.13 +- 0.29 and -0.17 +- 0.30): 1,437 images are few, and a flow
overfits before the rest does.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset

tfd = tfp.distributions
FLAGS = flags.FLAGS
LEVELS, PIXELS = 17, 64


class VAE(keras.Model):
  """A VAE of images of integer pixels; `prior` is a Keras layer whose call is the log density of latents."""

  def __init__(self, prior, latent_size, hidden, dropout):
    super().__init__()
    self.prior = prior
    self.encoder = network(PIXELS, 2 * latent_size, hidden, dropout)
    self.decoder = network(latent_size, PIXELS * LEVELS, hidden, dropout)
    self.noise = keras.random.SeedGenerator(0)

  def log_weights(self, images, samples, training=False):
    """Return log p(x|z) + log p(z) - log q(z|x) for draws z of q(z|x), `[samples, B]`."""
    loc, scale = tf.split(self.encoder(images / (LEVELS - 1) - 0.5, training=training), 2, axis=-1)
    q = tfd.MultivariateNormalDiag(loc, tf.nn.softplus(scale) + 1e-4)
    z = loc + q.scale.diag * keras.random.normal((samples, *tf.unstack(tf.shape(loc))), seed=self.noise)
    logits = self.decoder(tf.reshape(z, [-1, z.shape[-1]]), training=training)
    pixels = tfd.Categorical(tf.reshape(logits, [samples, -1, PIXELS, LEVELS]))
    return tf.reduce_sum(pixels.log_prob(images), axis=-1) + self.prior(z) - q.log_prob(z)

  def call(self, images, training=False):
    return self.log_weights(images, 1, training)[0]


def network(inputs, outputs, hidden, dropout):
  return keras.Sequential(
    [
      keras.Input([inputs]),
      keras.layers.Dense(hidden, "elu"),
      keras.layers.Dropout(dropout),
      keras.layers.Dense(hidden, "elu"),
      keras.layers.Dropout(dropout),
      keras.layers.Dense(outputs),
    ]
  )


def make_prior(name):
  if name == "normal":
    return fpp.layers.Flow(tfd.Sample(tfd.Normal(0.0, 1.0), FLAGS.latent_size))
  return fpp.VectorFlow(FLAGS.latent_size, couplings=FLAGS.couplings, components=4, hidden=32, blocks=1)


def train_and_evaluate(prior, seed, train, test):
  """Return the ELBO and the importance-weighted bound of each test image, nats."""
  keras.utils.set_random_seed(seed)
  vae = VAE(make_prior(prior), FLAGS.latent_size, FLAGS.hidden, FLAGS.dropout)
  steps = FLAGS.epochs * -(-len(train) // 64)
  optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps))
  vae.compile(optimizer, loss=lambda _, elbo: -elbo, jit_compile=False)
  vae.fit(train, train, batch_size=64, epochs=FLAGS.epochs, verbose=0)
  parts = [min(64, FLAGS.samples - drawn) for drawn in range(0, FLAGS.samples, 64)]
  log_weights = tf.concat([vae.log_weights(test, count) for count in parts], axis=0)
  bound = tf.reduce_logsumexp(log_weights, axis=0) - np.log(FLAGS.samples)
  return tf.reduce_mean(log_weights, axis=0).numpy(), bound.numpy()


def main(argv):
  del argv
  digits = load_dataset("digits")
  train, test = (images.reshape(-1, PIXELS).astype(np.float32) for images in (digits.train, digits.test))
  results = {prior: [] for prior in ("normal", "flow")}
  for seed in range(FLAGS.seeds):
    for prior, runs in results.items():
      runs.append(train_and_evaluate(prior, seed, train, test))
      print(f"seed {seed}, prior {prior}: ELBO {runs[-1][0].mean():.2f}, bound {runs[-1][1].mean():.2f}", flush=True)
  normal, flow = (np.array(runs) for runs in results.values())  # [seeds, 2, images]
  print(f"| prior | ELBO | importance-weighted bound, {FLAGS.samples} samples |\n|---|---|---|")
  for name, values in (("normal", normal), ("flow", flow), ("difference, paired", flow - normal)):
    images = values.mean(axis=0)
    errors = images.std(axis=-1, ddof=1) / np.sqrt(images.shape[-1])
    print(f"| {name} | {images[0].mean():.2f} +- {errors[0]:.2f} | {images[1].mean():.2f} +- {errors[1]:.2f} |")


if __name__ == "__main__":
  flags.DEFINE_integer("epochs", 40, "Epochs of training.")
  flags.DEFINE_integer("seeds", 3, "Runs of each prior.")
  flags.DEFINE_integer("latent_size", 32, "Latents of an image.")
  flags.DEFINE_integer("hidden", 256, "Width of encoder and decoder.")
  flags.DEFINE_integer("couplings", 4, "Couplings of the prior.")
  flags.DEFINE_integer("samples", 256, "Draws of the latents per test image.", lower_bound=1)
  flags.DEFINE_float("dropout", 0.2, "Dropout rate of encoder and decoder.")
  flags.DEFINE_float("learning_rate", 1e-3, "First learning rate.")
  app.run(main)

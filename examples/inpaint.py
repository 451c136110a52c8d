"""Draw the missing part of an image from its posterior under a trained model, given the part that is seen.

python examples/inpaint.py --picture=inpainted.png

The flow is a density of dequantized images y = x + u, u in [0, 1). A seen pixel x says that y is in [x, x + 1), a
missing one that y is in [0, levels). Hamiltonian Monte Carlo samples the flow's density in this box, and floor(y) is a
draw of P(x missing | x seen). No step of it is approximate; it is as good as the chains are long, which R-hat measures:
near 1, the chains agree. The chains begin at samples of the model that look like what is seen. With half of a digit
missing, 100 steps do not mix; the command above printed

    | test image | accepted | R-hat, largest; median | effective draws, median |
    |---|---|---|---|
    | 3 | 0.71 | 4.38; 1.71 | 29 |
    | 7 | 0.76 | 7.86; 1.76 | 27 |
    | 20 | 0.80 | 6.91; 1.61 | 29 |

so that the draws show which digits are possible, not how probable each is. With two rows missing they do mix:
--images=3 --seen_rows=6 --steps=240 printed R-hat 1.07; 1.04, and 254 effective draws.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import numpy as np
from PIL import Image
import tensorflow as tf
import tensorflow_probability as tfp

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset

FLAGS = flags.FLAGS


def sample_posterior(model, images, seen, start, steps, leapfrog_steps, seed=0):
  """Return draws of whole images given the seen pixels, and the share of accepted steps.

  Args:
    model: `FlowPlusPlus`, without augmented channels.
    images: integers, `[N, H, W, C]`; only their seen pixels matter.
    seen: bool, broadcast against `images`.
    start: dequantized images at which the chains begin, `[chains, N, H, W, C]`; they are moved into the box.
    steps: steps of a chain; the first half, in which the step size adapts, is dropped.
    leapfrog_steps: evaluations of the gradient per step.
    seed: integer.

  Returns:
    Integers `[steps / 2, chains, N, H, W, C]`, and a number for each image.
  """
  dtype, levels = model.variable_dtype, model.config.levels
  low, high = (tf.cast(bound, dtype) for bound in (np.where(seen, images, 0), np.where(seen, images + 1, levels)))
  margin = 0.02 * (high - low)  # at an end of the box the unconstrained state would be infinite
  start = tf.clip_by_value(tf.cast(start, dtype), low + margin, high - margin)
  hmc = tfp.mcmc.HamiltonianMonteCarlo(model.flow.log_prob, step_size=0.1, num_leapfrog_steps=leapfrog_steps)
  kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
    tfp.mcmc.TransformedTransitionKernel(hmc, tfp.bijectors.Sigmoid(low, high)), steps // 2 * 4 // 5
  )
  run = tf.function(
    lambda: tfp.mcmc.sample_chain(
      steps // 2,
      start,
      num_burnin_steps=steps // 2,
      kernel=kernel,
      seed=(0, seed),
      trace_fn=lambda _, results: results.inner_results.inner_results.is_accepted,
    ),
    autograph=False,
  )
  y, accepted = run()
  return np.clip(np.floor(y), low, high - 1).astype(int), np.mean(accepted, axis=(0, 1))


def nearest_samples(model, images, seen, chains, pool):
  """Return the samples of the flow whose seen pixels are closest to those of each image, `[chains, N, H, W, C]`."""
  samples = np.concatenate([model.flow.sample(min(250, pool - i), seed=(1, i)) for i in range(0, pool, 250)])
  distances = [np.sum(np.where(seen, samples - image - 0.5, 0) ** 2, axis=(1, 2, 3)) for image in images]
  return np.stack([samples[np.argsort(d)[:chains]] for d in distances], axis=1)


def diagnose(draws, seen):
  """Return the largest and the median R-hat and the median effective sample size of each image's missing values.

  A value that is the same in all draws has none of them.
  """
  draws = tf.cast(draws, tf.float32)
  missing = ~np.broadcast_to(seen, draws.shape[2:])
  r_hat = np.where(missing, tfp.mcmc.potential_scale_reduction(draws, 1, split_chains=True), np.nan)
  size = np.where(
    missing, tfp.mcmc.effective_sample_size(draws, cross_chain_dims=1, filter_beyond_positive_pairs=True), np.nan
  )
  axes = (1, 2, 3)
  return np.nanmax(r_hat, axes), np.nanmedian(r_hat, axes), np.nanmedian(size, axes)


def draw(images, seen, draws, levels, path, zoom=8):
  """Write a row for each image: the original, what is seen, the last draw of each chain."""
  frame = lambda image: np.pad(image, [(1, 1), (1, 1), (0, 0)], constant_values=levels // 2)
  rows = [
    np.concatenate([frame(part) for part in (image, np.where(seen, image, levels // 3), *last)], axis=1)
    for image, last in zip(images, np.moveaxis(draws[-1], 0, 1))
  ]
  pixels = (np.concatenate(rows) * (255 / (levels - 1))).astype(np.uint8)
  pixels = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def main(argv):
  del argv
  model = fpp.FlowPlusPlus.from_preset(FLAGS.preset)
  images = load_dataset(FLAGS.preset).test[[int(i) for i in FLAGS.images]].astype(int)
  seen = np.arange(images.shape[1])[:, np.newaxis, np.newaxis] < FLAGS.seen_rows
  start = nearest_samples(model, images, seen, FLAGS.chains, FLAGS.pool)
  draws, accepted = sample_posterior(model, images, seen, start, FLAGS.steps, FLAGS.leapfrog_steps)
  assert np.all((draws == images) | ~seen)
  print("| test image | accepted | R-hat, largest; median | effective draws, median |\n|---|---|---|---|")
  for i, share, largest, median, size in zip(FLAGS.images, accepted, *diagnose(draws, seen)):
    print(f"| {i} | {share:.2f} | {largest:.2f}; {median:.2f} | {size:.0f} |")
  if FLAGS.picture:
    draw(images, seen, draws, model.config.levels, FLAGS.picture)


if __name__ == "__main__":
  flags.DEFINE_string("preset", "digits", "Preset that comes with its data: digits or photos.")
  flags.DEFINE_list("images", ["3", "7", "20"], "Test images, by number.")
  flags.DEFINE_integer("seen_rows", 4, "Rows of pixels that are seen, from the top.")
  flags.DEFINE_integer("chains", 8, "Chains for each image.", lower_bound=2)
  flags.DEFINE_integer("steps", 100, "Steps of a chain; the first half is dropped.", lower_bound=8)
  flags.DEFINE_integer("leapfrog_steps", 24, "Evaluations of the gradient per step.", lower_bound=1)
  flags.DEFINE_integer("pool", 2000, "Samples of the model, of which the closest to what is seen begin the chains.")
  flags.DEFINE_string("picture", None, "PNG file: original, what is seen, a draw of each chain; none by default.")
  app.run(main)

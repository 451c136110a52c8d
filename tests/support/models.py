"""Small models of every kind, images for them, and the Jacobian that they are tested against."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

import flowpp_tf as fpp

# Small, yet with every part: both splits, an odd group, squeeze, attention, context, dropout.
SMALL = fpp.FlowPlusPlusConfig(
  image_shape=(4, 4, 2),
  levels=8,
  structure="columns:1,squeeze,channels:2",
  components=3,
  filters=4,
  blocks=1,
  heads=2,
  dropout=0.2,
  dequant_structure="columns:2",
  dequant_filters=4,
  dequant_blocks=1,
  context_channels=4,
  context_blocks=1,
)

# For tests of what happens around a model, which trace it many times: every part once.
TINY = dataclasses.replace(SMALL, structure="columns:1,squeeze,channels:1", dequant_structure="columns:1")

# For tests of runs and files, which train whatever model: it is traced in a second.
MINIMAL = dataclasses.replace(TINY, structure="columns:1", coupling="affine", dequantization="uniform", attention=False)


def small_config(base=MINIMAL, /, **changes):
  """A small config with other settings."""
  return dataclasses.replace(base, **changes)


# Given a class, or none, and a smaller image.
CONDITIONED = dict(
  num_classes=3, label_dropout=0.1, condition_shape=(2, 2, 1), condition_channels=4, condition_blocks=1
)
# Grey images of bytes, without attention, so that decoding hundreds of damaged archives takes seconds.
GREY = small_config(TINY, image_shape=(4, 4, 1), levels=256, attention=False, dropout=0.0)

VARIANTS = {
  "published": SMALL,
  "uniform": small_config(SMALL, dequantization="uniform"),
  "affine": small_config(SMALL, coupling="affine", invertible_conv="lu"),
  "no_attention": small_config(SMALL, attention=False, act_norm_per_position=False, invertible_conv_init="whitening"),
  "imagenet32": small_config(
    SMALL,
    weight_norm=True,
    output_concat_elu=True,
    invertible_conv="none",
    context_layer_norm=True,
    context_attention=True,
  ),
  "imagenet64": small_config(
    SMALL, output_concat_elu=True, invertible_conv="none", dequant_mixing=False, context_layer_norm=True
  ),
  "augmented": small_config(SMALL, augment_channels=2, augment_blocks=1),
  "augmented_normal": small_config(
    SMALL,
    dequantization="uniform",
    augment_channels=2,
    augment_posterior="normal",
    structure="channels:1,columns:1,squeeze,channels:2",
  ),
  "augmented_vflow": small_config(
    SMALL,
    augment_channels=2,
    augment_end="sigmoid",
    augment_blocks=1,
    coupling_margin=0.05,
    invertible_conv_stddev=0.01,
    structure="channels:1,columns:1,squeeze,channels:2",
  ),
}


def small_images(count=6, config=SMALL, seed=0):
  """Random images for a config."""
  return np.random.RandomState(seed).randint(0, config.levels, [count, *config.image_shape]).astype(np.uint8)


def perturb(model, scale=0.1, seed=0):
  """Move every weight of a model away from the identity that it starts near; return it."""
  rng = np.random.RandomState(seed)
  for weight in model.trainable_variables:
    weight.assign_add(scale * rng.randn(*weight.shape))
  return model


def perturbed(base=MINIMAL, /, scale=0.1, seed=0, **changes):
  """A perturbed model of a small config with other settings, the same each time."""
  keras.utils.set_random_seed(seed)
  return perturb(fpp.FlowPlusPlus(small_config(base, **changes)), scale, seed)


def value_and_log_det(function, x):
  """Return `function(x)`, and log|det| of its Jacobian for each example, by autodiff; without the last of shares."""

  @tf.function(autograph=False)  # the rows of the Jacobian are traced once
  def value_and_jacobian():
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(x)
      y = function(x)
      free = y if np.prod(y.shape) == np.prod(x.shape) else y[..., :-1]
    return y, tape.batch_jacobian(free, x, experimental_use_pfor=False)

  y, jacobian = value_and_jacobian()
  size = int(np.prod(x.shape[1:]))
  return y, np.linalg.slogdet(jacobian.numpy().reshape(-1, size, size))[1]

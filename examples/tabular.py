"""Densities of low-dimensional data: `fpp.vector_flow` against the flows of TFP, at equal steps and parameters.

python examples/tabular.py

All flows have ActNorm and a linear map (LU decomposition) before each of six layers, the same permutations, the same
residual networks (MAF: `tfb.AutoregressiveNetwork`), data-dependent initialisation, Adam with clipped gradients, a
cosine schedule, and weights of the step with the best validation. The networks' widths make the numbers of parameters
equal; weights that MAF masks do not count. Each flow has the best of --rates by validation.

The data come with scikit-learn and scikit-image, or are drawn. Pixels are dequantized by uniform noise; all values are
standardised by the training split, so that 0 nats less is what a model loses against another, not a unit of pixels.

Measured on two shared cores of a Xeon, in several processes; held-out nats, mean of three seeds, in brackets their
standard deviation:

    data                 Flow++           splines          MAF              affine couplings
    two moons, 2-D       -1.139 (0.001)   -1.146 (0.002)   -1.813 (0.076)   -1.280 (0.044)
    colours, 3-D          1.011 (0.019)    0.991 (0.031)    0.601 (0.037)    0.837 (0.040)
    photo patches, 6-D    5.778 (0.103)    5.780 (0.194)    6.462 (0.272)    5.811 (0.132)
    digits, 16-D        -12.166 (0.310)  -12.319 (0.120)  -13.133 (0.530)  -13.929 (0.139)
"""

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
import keras
import numpy as np
import sklearn.datasets
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import flowpp_tf as fpp
from flowpp_tf import bijectors as fb
from flowpp_tf.core.context import EvalContext
from flowpp_tf.data.bundled import packaged_photographs

FLAGS = flags.FLAGS
tfb, tfd = tfp.bijectors, tfp.distributions

LAYERS, HIDDEN, BLOCKS, COMPONENTS = 6, 64, 2, 8  # of fpp.vector_flow
BINS, BOUND = 8, 4.0  # of the splines: they are the identity outside of [-4, 4]


# --- Data: training, validation and test split, each [N, D] -------------------------------------


def two_moons():
  """Points of two half circles, with noise."""
  return [
    sklearn.datasets.make_moons(n, noise=0.05, random_state=seed)[0] for seed, n in enumerate((20_000, 4_000, 10_000))
  ]


def patches():
  """Grey patches of 2x3 pixels, split by photograph."""
  splits = []
  for seed, (n, photographs) in enumerate(zip((40_000, 5_000, 10_000), packaged_photographs().values())):
    greys = [np.round(pixels @ [0.299, 0.587, 0.114]) for pixels in photographs.values()]
    windows = [np.lib.stride_tricks.sliding_window_view(grey, (2, 3))[::2, ::3].reshape(-1, 6) for grey in greys]
    splits.append(dequantized(np.concatenate([shuffled(part)[: n // len(windows)] for part in windows]), seed))
  return splits


def colours():
  """Colours of a photograph's pixels, split by squares of 16x16."""
  pixels = sklearn.datasets.load_sample_image("china.jpg")[:416]
  squares = shuffled(pixels.reshape(26, 16, 40, 16, 3).swapaxes(1, 2).reshape(26 * 40, 256, 3))
  return [
    dequantized(shuffled(part.reshape(-1, 3))[: 10_000 if seed else 40_000], seed)
    for seed, part in enumerate(np.split(squares, [728, 832]))
  ]


def digits():
  """Hand-written digits at 4x4 pixels."""
  images = sklearn.datasets.load_digits().images.reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(-1, 16)
  return np.split(dequantized(shuffled(images)), [1100, 1400])


def shuffled(x):
  return x[np.random.RandomState(0).permutation(len(x))]


def dequantized(x, seed=0):
  return x + np.random.RandomState(seed).uniform(size=x.shape)


# --- Flows --------------------------------------------------------------------------------------


class Conditioned(tf.Module):
  """The `bijector_fn` of TFP's flows: a network, and the bijector that its outputs make."""

  def __init__(self, network, bijector_fn):
    super().__init__()
    self._network, self._bijector_fn = network, bijector_fn
    self._weights = [v.value if isinstance(v, keras.Variable) else v for v in network.variables]

  def __call__(self, x, *_, ctx=EvalContext()):
    initialised_by_data = isinstance(self._network, fpp.layers.DenseConditioner)
    return self._bijector_fn(self._network(x, ctx=ctx) if initialised_by_data else self._network(x))


def affine(parameters):
  """Shift and scale; the log scale is bounded, without which MAF diverges."""
  shift, log_scale = tf.unstack(per_value(parameters, 2), axis=-1)
  return tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=2 * tf.tanh(log_scale / 2))])


def spline(parameters):
  """Rational quadratic spline (Durkan et al. 2019), near the identity where the parameters are near 0."""
  widths, heights, slopes = tf.split(per_value(parameters, 3 * BINS - 1), [BINS, BINS, BINS - 1], axis=-1)
  sizes = lambda logits: 1e-3 + tf.nn.softmax(logits) * (2 * BOUND - 1e-3 * BINS)
  return tfb.RationalQuadraticSpline(
    sizes(widths), sizes(heights), 1e-3 + tf.nn.softplus(slopes + 0.54), range_min=-BOUND
  )


def per_value(parameters, size):
  return tf.reshape(parameters, [tf.shape(parameters)[0], -1, size])


def tfp_flow(size, layer):
  """Return a flow of layers that `layer()` makes."""
  variable = lambda value, name: keras.Variable(value, dtype="float32", name=name)
  parts = []
  for _ in range(LAYERS):
    parts += [
      fb.ActNorm(variable(np.ones(size), "scale"), variable(np.zeros(size), "bias"), min_variance=1e-6),
      fb.Invertible1x1ConvLU(
        variable(np.zeros([size, size]), "lower_upper"), event_ndims=1, permutation=(np.arange(size) - size // 2) % size
      ),
      layer(),
    ]
  normal = tfd.Sample(tfd.Normal(0.0, 1.0), size)
  return fpp.distributions.FlowDistribution(normal, fb.Invert(fb.Chain(parts[::-1])))


def coupling_flow(size, bijector_fn, outputs, width=None):
  """Return couplings of TFP with networks as ours; without a width it is that of equal parameters."""
  kept = size // 2
  width = width or equal_width(size, lambda h: dense_parameters(kept, h, (size - kept) * outputs))
  network = lambda: fpp.layers.DenseConditioner(kept, (size - kept) * outputs, width, BLOCKS)
  return tfp_flow(size, lambda: tfb.RealNVP(kept, bijector_fn=Conditioned(network(), bijector_fn)))


def maf(size, width=None):
  """Return masked autoregressive flows, in the direction that is one pass from data to latents."""
  # Masks leave half of the weights of the first and the last layer, and more of that between them.
  parameters = lambda h: (size / 2 + 1) * h + (h * size / (2 * size - 2) + 1) * h + (h / 2 + 1) * 2 * size
  width = width or equal_width(size, parameters)

  def layer():
    network = tfb.AutoregressiveNetwork(2, event_shape=size, hidden_units=[width, width], activation="elu")
    network.build([None, size])
    return tfb.Invert(tfb.MaskedAutoregressiveFlow(bijector_fn=Conditioned(network, affine)))

  return tfp_flow(size, layer)


def ours(size):
  return fpp.vector_flow(size, couplings=LAYERS, components=COMPONENTS, hidden=HIDDEN, blocks=BLOCKS)


def equal_width(size, parameters):
  """Return the width of networks that gives a flow as many parameters as `fpp.vector_flow` has."""
  kept = size // 2
  target = dense_parameters(kept, HIDDEN, (size - kept) * fb.num_parameters("mixture_logistic", COMPONENTS))
  return min(range(8, 400, 2), key=lambda width: abs(parameters(width) - target))


def dense_parameters(inputs, width, outputs):
  return (inputs + 1) * width + 2 * BLOCKS * (width + 1) * width + (width + 1) * outputs


MODELS = {
  "Flow++, fpp.vector_flow": ours,
  "spline couplings, tfb.RationalQuadraticSpline": lambda size: coupling_flow(size, spline, 3 * BINS - 1),
  "MAF, tfb.MaskedAutoregressiveFlow": maf,
  "affine couplings, tfb.RealNVP": lambda size: coupling_flow(size, affine, 2),
}
DATA = {"two moons, 2-D": two_moons, "photo patches, 6-D": patches, "colours, 3-D": colours, "digits, 16-D": digits}


# --- Training -----------------------------------------------------------------------------------


class Experiment:
  """A flow that is trained several times, and compiled once.

  Args:
    make: size -> flow.
    data: the three splits.
  """

  def __init__(self, make, data):
    self._make, self._data = make, [tf.constant(part) for part in data]
    self._flow = make(data[0].shape[1])
    # Of tf_keras, whose optimizers apply the masks of `tfb.AutoregressiveNetwork`: they are constraints of variables.
    self._optimizer = tf_keras.optimizers.Adam(global_clipnorm=1.0)
    self._optimizer.build(self._flow.trainable_variables)
    self._log_prob = tf.function(lambda x: self._flow.log_prob(x), autograph=False)
    self._take_steps = tf.function(self._steps, jit_compile=FLAGS.xla, autograph=False)

  def run(self, rate, seed):
    """Train from the start; return best validation, test log densities, parameters, CPU milliseconds a step."""
    keras.utils.set_random_seed(seed)
    fresh = self._make(self._data[0].shape[1])
    fresh.initialize(self._data[0][:1000])
    for variable, value in zip(self._flow.variables, fresh.variables):
      variable.assign(value)
    for variable in self._optimizer.variables:
      variable.assign(tf.zeros_like(variable))
    best, weights, seconds = -np.inf, [], []
    for first in range(0, FLAGS.steps, FLAGS.every):
      begin = time.process_time()
      self._take_steps(tf.constant(first), tf.constant(rate), tf.constant(seed)).numpy()
      seconds.append(time.process_time() - begin)
      validation = np.mean(self._log_prob(self._data[1]))
      if validation > best:
        best, weights = validation, [v.numpy() for v in self._flow.variables]
    for variable, value in zip(self._flow.variables, weights):
      variable.assign(value)
    moved = sum(np.count_nonzero(v) for v in self._flow.trainable_variables)  # masked weights stay 0
    return best, self._log_prob(self._data[2]).numpy(), moved, 1e3 * min(seconds) / FLAGS.every

  def _steps(self, first, rate, seed):
    """Take steps, from number `first` to the next validation."""
    variables, x = self._flow.trainable_variables, self._data[0]

    def step(i):
      warmup = tf.minimum(1.0, tf.cast(i + 1, tf.float32) / 100)
      self._optimizer.learning_rate.assign(
        rate * warmup * 0.5 * (1 + tf.cos(np.pi * tf.cast(i, tf.float32) / FLAGS.steps))
      )
      batch = tf.gather(x, tf.random.stateless_uniform([FLAGS.batch], [seed, i], 0, len(x), tf.int32))
      with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(self._flow.log_prob(batch))
      self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
      return [i + 1]

    return tf.while_loop(lambda i: i < first + FLAGS.every, step, [first])[0]


def standardised(splits):
  mean, scale = splits[0].mean(axis=0), splits[0].std(axis=0)
  return [((part - mean) / scale).astype(np.float32) for part in splits]


def measure(make, data):
  """Return the row of a flow: test log densities `[seeds, N]`, rate, parameters, CPU milliseconds a step."""
  experiment = Experiment(make, data)
  runs = {rate: experiment.run(rate, 0) for rate in map(float, FLAGS.rates)}
  rate = max(runs, key=lambda rate: runs[rate][0])
  results = [runs[rate], *(experiment.run(rate, seed) for seed in range(1, FLAGS.seeds))]
  return np.stack([r[1] for r in results]), rate, results[0][2], min(r[3] for r in results)


def main(argv):
  del argv
  print(
    "| data | flow | parameters | learning rate | held-out nats, ± over points | spread of seeds | "
    "behind the best, ± over points | CPU ms/step |\n" + "|---" * 8 + "|"
  )
  for name in FLAGS.data:
    data = standardised(DATA[name]())
    rows = {model: measure(make, data) for model, make in MODELS.items()}
    order = sorted(rows, key=lambda model: -rows[model][0].mean())
    best = rows[order[0]][0].mean(axis=0)
    error = lambda values: values.std() / len(values) ** 0.5
    for model in order:
      by_seed, rate, parameters, ms = rows[model]
      points = by_seed.mean(axis=0)
      behind = "" if model == order[0] else f"{np.mean(best - points):.4f} ± {error(best - points):.4f}"
      print(
        f"| {name} | {model} | {parameters} | {rate:g} | {points.mean():.4f} ± {error(points):.4f} | "
        f"{by_seed.mean(axis=1).std(ddof=min(1, len(by_seed) - 1)):.4f} | {behind} | {ms:.1f} |",
        flush=True,
      )


if __name__ == "__main__":
  flags.DEFINE_multi_enum("data", list(DATA), list(DATA), "Data sets.")
  flags.DEFINE_bool("xla", True, "Compile the steps by XLA, which takes half a minute for each flow.")
  flags.DEFINE_integer("steps", 1500, "Training steps, a multiple of --every.", lower_bound=1)
  flags.DEFINE_integer("every", 100, "Steps between validations.", lower_bound=1)
  flags.DEFINE_integer("batch", 256, "Batch size.", lower_bound=1)
  flags.DEFINE_list("rates", ["4e-3"], "Learning rates to choose from, by the validation of seed 0.")
  flags.DEFINE_integer("seeds", 3, "Seeds.", lower_bound=1)
  app.run(main)

"""Measure bits/dim of a set of images by bounds with several numbers of samples. Flow++ sections 3.1 and 4.

A bound of n samples is estimated from K >= n draws: the mean, over K // n groups of n draws, of the log-mean-exp of a
group. This has the expectation of one group, with less variance. If each n divides the next n, the estimates never
decrease with n, by Jensen's inequality.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import math
import pathlib

import numpy as np
import tensorflow as tf
import tqdm

from flowpp_tf.core.checks import INT32_MAX, check_arguments, check_count
from flowpp_tf.core.context import NOISE, as_seed, fold_in
from flowpp_tf.core.errors import InputError, with_error
from flowpp_tf.data import evaluation_batches
from flowpp_tf.data.source import Images, as_images
from flowpp_tf.devices import Workers
from flowpp_tf.evaluation.batched_model import DistributedFunction, input_specs
from flowpp_tf.io.files import create_array, replace_file
from flowpp_tf.io.gate import map_npy, reason
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.models.bound import BoundTerms
from flowpp_tf.pretrained.card import bound_name
from flowpp_tf.tiles.cutting import KEPT_SIZES, by_size, check_inside, coded_sizes
from flowpp_tf.types import Path, Seed


@dataclasses.dataclass(frozen=True)
class Bound:
  """Mean of a bound over images, in bits/dim, and its standard error.

  Attributes:
    num_samples: draws of the dequantization noise per image.
    bits_per_dim: mean over the images.
    standard_error: standard error of the mean; NaN for one image.

  Examples:
    >>> from flowpp_tf.evaluation import Bound
    >>> Bound(num_samples=1, bits_per_dim=1.82, standard_error=0.02).bits_per_dim
    1.82
  """

  num_samples: int
  bits_per_dim: float
  standard_error: float


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
  """Bits/dim over a set of images.

  Attributes:
    images: number of images.
    bounds: bounds by increasing number of samples; the first is the single-sample bound.
    terms: `BoundTerms` in bits/dim by name, whose sum is the single-sample bound. Real-valued images have an exact
      density, and no term for dequantization.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import evaluate_bits_per_dim
    >>> images = load_dataset("digits").test[:4]
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> result = evaluate_bits_per_dim(model, images, num_samples=2)
    >>> abs(sum(result.terms.values()) - result.bounds[0].bits_per_dim) < 1e-4, result.best.num_samples
    (True, 2)
  """

  images: int
  bounds: tuple[Bound, ...]
  terms: dict[str, float]

  @property
  def best(self) -> Bound:
    """The bound with the most samples."""
    return self.bounds[-1]

  def __str__(self):
    rows = [f"{self.images} images"]
    exact = "dequantization" not in self.terms
    if exact:
      nats = -math.log(2) * self.best.bits_per_dim
      error = math.log(2) * self.best.standard_error
      rows.append(f"  {'exact log density':<39} {with_error(nats, error)} nats/dim")
    for bound in self.bounds[::-1]:
      name = bound_name(bound.num_samples, exact)
      rows.append(f"  {name:<39} {with_error(bound.bits_per_dim, bound.standard_error)} bits/dim")
    terms = ", ".join(f"{name.replace('_', '-')} {value:+.4f}" for name, value in self.terms.items())
    return "\n".join([*rows, f"    its terms: {terms}"])


@check_arguments
def evaluate_bits_per_dim(
  model: FlowPlusPlus,
  images: Images,
  num_samples: int | Sequence[int] = 1,
  batch_size: int = 100,
  seed: Seed = 0,
  partial: Path | None = None,
  verbose: int = 0,
  conditioning: Mapping[str, np.ndarray] | None = None,
  inside: np.ndarray | None = None,
) -> BitsPerDim:
  """Measure the bounds over a set of images.

  Args:
    model: `FlowPlusPlus`.
    images: integers, `[N, H, W, C]`, anything that NumPy can index.
    num_samples: draws of the dequantization noise per image, or a list of such numbers; the single-sample bound is
      always measured too. Real-valued images have no noise: only their density is measured.
    batch_size: batch size; the result depends on it only through the draws.
    seed: seed of the draws.
    partial: folder for partial results, from which the next call with the same arguments resumes. The file
      evaluation-*.npy is named by a hash of everything that the draws depend on, and deleted at the end.
    verbose: 1 for a progress bar with the running estimate of the single-sample bound.
    conditioning: inputs of a conditional model by name: "labels" `[N]`, "condition" `[N, ...]`.
    inside: for a model with `tile_neighbours`, the rows and columns of each tile that lie inside its picture, integers
      `[N, 2]`; None for whole tiles. Tiles are measured as an archive codes them. Bits/dim are the bits of all tiles
      divided by the number of values inside.

  Raises:
    InputError (a ValueError): if a count is not positive, the images do not fit the model, or `partial` cannot be
      written.

  Examples:
    >>> from flowpp_tf.data import load_dataset
    >>> from flowpp_tf.evaluation import evaluate_bits_per_dim
    >>> images = load_dataset("digits").test[:4]
    >>> model = fpp.FlowPlusPlus.from_preset("digits")
    >>> result = evaluate_bits_per_dim(model, images, num_samples=[1, 4])
    >>> [bound.num_samples for bound in result.bounds], result.images
    ([1, 4], 4)
  """
  images = as_images("images", images)
  counts = [num_samples] if isinstance(num_samples, (int, np.integer)) else [*num_samples]
  for count in counts or [0]:
    check_count("num_samples", count, high=INT32_MAX)
  check_count("batch_size", batch_size, high=2**63 - 1)
  check_count("verbose", verbose, 0)
  counts = sorted({model.dequantizer.draws(int(count)) for count in (1, *counts)})
  model.check_images(images[:1])
  conditioning = conditioning or {}
  if unknown := {*conditioning} - {"labels", "condition"}:
    raise InputError(f"`conditioning` must have the keys labels and condition, got {', '.join(map(repr, unknown))}")
  tensors = model.check_conditioning(len(images), **conditioning)
  conditioning = {name: tensor.numpy() for name, tensor in tensors.items()}
  if inside is not None:
    inside = check_inside(inside, len(images), model.config.image_shape)
  shape = (len(images), counts[-1], len(BoundTerms._fields))
  if partial is None:
    draws = np.full(shape, np.nan, model.variable_dtype)
  else:
    digest = _draws_digest(model, images, conditioning, inside, counts[-1], batch_size, seed)
    path = pathlib.Path(partial, f"evaluation-{digest}.npy")
    draws = _open_partial(path, shape, model.variable_dtype)
  _measure(model, images, conditioning, draws, batch_size, as_seed(seed), verbose, inside)
  result = _summarize(model, draws, counts, inside)
  if partial is not None:
    path.unlink(missing_ok=True)  # another process with the same arguments may have ended first
  return result


def importance_weighted(bounds: np.ndarray, axis: int = 0) -> np.ndarray:
  """Return the log-mean-exp of single-sample bounds in nats along an axis; equation 7."""
  return np.logaddexp.reduce(bounds, axis=axis) - math.log(bounds.shape[axis])


def standard_error(values: np.ndarray) -> float:
  """Return the standard error of the mean of values; NaN for one value."""
  if len(values) == 1:
    return math.nan
  return float(values.std(ddof=1)) / math.sqrt(len(values))


def _bound_terms(model):
  """Return the function from images, noise and conditioning to the terms of the bound."""
  specs = model.conditioning_specs

  def terms(images, noise, *values):
    by_draw = model.bound_terms(images, noise=noise, seed=0, **dict(zip(specs, values)))
    return tf.stack(by_draw, axis=-1)[0]

  return DistributedFunction(model, terms, input_specs(model))


def _measure(model, images, conditioning, draws, batch_size, seed, verbose, inside):
  """Fill `draws [N, K, terms]` where they are NaN."""
  whole = model.config.image_shape[:2]

  @functools.lru_cache(KEPT_SIZES)
  def cropped_bound_terms(*size):
    if size == whole:
      return _bound_terms(model)
    return _bound_terms(model.cropped(*size))

  sizes = np.broadcast_to(whole, (len(images), 2))
  if inside is not None:
    sizes = coded_sizes(inside, model.config.image_shape, model.config.tile_step)
  Workers(model.distribute_strategy).broadcast_array(draws)  # the chief may have what was measured before
  batches = (draws[i : i + batch_size] for i in range(0, len(images), batch_size))
  missing = np.array([np.isnan(batch).any(axis=(0, 2)) for batch in batches])

  total = 0.0
  count = 0
  with tqdm.tqdm(total=missing.size, unit="batch of draws", disable=not verbose) as bar:
    for i, batch in enumerate(evaluation_batches(images, batch_size)):
      batch = tf.cast(model.check_images(batch), model.image_dtype)
      rows = slice(i * batch_size, (i + 1) * batch_size)
      batch_draws = draws[rows]
      batch_conditioning = [values[rows] for values in conditioning.values()]
      for k in range(draws.shape[1]):
        if missing[i, k]:
          draw_seed = fold_in(fold_in(seed, i), k)
          noise = model.sample_noise([len(batch)], fold_in(draw_seed, NOISE))
          for (height, width), chosen in by_size(sizes[rows]):
            arrays = [tf.gather(array, chosen) for array in (batch, noise, *batch_conditioning)]
            cropped = [array[:, :height, :width] if len(array.shape) == 4 else array for array in arrays]
            batch_draws[chosen, k] = cropped_bound_terms(height, width)(*cropped)
        total += batch_draws[:, k].sum(dtype=np.float64)
        count += len(batch_draws)
        bar.set_postfix_str(f"{model.to_bits_per_dim(total / count):.4f} bits/dim", refresh=False)
        bar.update(1)


def _summarize(model, draws, counts, inside):
  """Return the `BitsPerDim` of `draws [N, K, terms]`, which can be a large memory map."""
  # Bits/dim of tiles of several sizes are a ratio of means: `share` is the share of a tile's values that lie inside.
  share = np.ones(len(draws))
  if inside is not None:
    share = np.prod(inside, axis=1) / math.prod(model.config.image_shape[:2])
  chunks = [draws[i : i + 1000].astype(np.float64) for i in range(0, len(draws), 1000)]

  def bound(n):
    nats = np.concatenate([_bounds(chunk, n) for chunk in chunks])
    bits = model.to_bits_per_dim(nats) / share.mean()
    mean = bits.mean()
    return Bound(n, float(mean), standard_error(bits - mean * (share / share.mean() - 1)))

  nats = sum(chunk.mean(axis=1).sum(axis=0) for chunk in chunks) / len(draws)
  terms = model.to_bits_per_dim(nats) / share.mean()
  by_name = dict(zip(BoundTerms._fields, map(float, terms), strict=True))
  if model.has_exact_density:
    del by_name["dequantization"]
  return BitsPerDim(len(draws), tuple(map(bound, counts)), by_name)


def _bounds(draws, n):
  """Return the bound of n samples of each image, `[N]` nats, from `draws [N, K, terms]`."""
  bounds = draws.sum(axis=-1)
  num_groups = bounds.shape[1] // n
  groups = bounds[:, : num_groups * n].reshape(len(draws), num_groups, n)
  return np.mean(importance_weighted(groups, axis=-1), axis=-1)


def _draws_digest(model, images, conditioning, inside, num_samples, batch_size, seed):
  """Return a hash of everything that the draws depend on; without a seed it is the same in each call."""
  seed_values = None if seed is None else as_seed(seed).numpy().tolist()
  digest = hashlib.sha256(repr((model.config, num_samples, batch_size, seed_values)).encode())
  batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
  inside_values = () if inside is None else inside
  for values in itertools.chain(model.weights, conditioning.values(), [inside_values], batches):
    array = np.asarray(values)
    digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
  return digest.hexdigest()[:20]


def _open_partial(path, shape, dtype):
  """Open or create a memory-mapped file that is NaN where nothing has been measured yet."""

  def create(temporary):
    array = create_array(temporary, dtype, shape)
    array[:] = np.nan
    array.flush()

  try:
    if not path.exists():
      replace_file(path, create)
  except (OSError, OverflowError) as error:
    raise InputError(f"{math.prod(shape):,} draws cannot be stored in {str(path.parent)!r}: {reason(error)}") from None
  try:
    draws = map_npy(path, "r+")
  except (OSError, ValueError) as error:
    raise InputError(f"{str(path)!r} cannot be resumed: {error}; delete it to start over") from None
  if draws.shape != shape or draws.dtype != dtype:
    raise InputError(f"{str(path)!r} is of another evaluation; delete it to start over")
  return draws

"""Training batches: shuffled in each epoch, or random crops; a batch depends only on the seed and the step.

Example n of a run is at position n mod N of epoch n // N; an epoch's shuffle is a stateless permutation of positions.
So a run that resumes at step k sees the same batches as one that was not interrupted, and any number of workers, each
with its slice of every batch, sees the same batches as one worker.

Each batch is one NumPy look-up by index, so that a memory-mapped file reads only the images of a batch.

Without labels a batch is a tensor of images, with them {"image": images, "label": int32 [B]}. Tiles of photographs come
with the context of their neighbours, {"image": tiles, "condition": contexts}.
"""

from collections.abc import Callable
import functools

import numpy as np
import tensorflow as tf

from flowpp_tf.config.structure import context_channels
from flowpp_tf.core.checks import INT32_MAX, check_arguments, check_count
from flowpp_tf.core.errors import InputError
from flowpp_tf.data.dataset import ImageDataset, as_labels
from flowpp_tf.data.random_crops import photographs_of, tiles_of
from flowpp_tf.data.source import Images, ReducedBits, as_images
from flowpp_tf.tiles.neighbours import tile_context

_FLIP, _CROP = 1, 2  # random streams, separate from the stream of the shuffle


@check_arguments
def training_batches(
  images: Images,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  num_shards: int = 1,
  shard: int = 0,
  flip: bool = False,
  labels: np.ndarray | None = None,
) -> tf.data.Dataset:
  """Return an endless `tf.data.Dataset` of shuffled batches.

  Args:
    images: `[N, H, W, C]`; of `RandomCrops`, each step takes random crops.
    batch_size: global batch size, over all devices and workers.
    seed: determines the shuffle of every epoch.
    start_step: step of the first batch.
    num_shards: number of workers; each gets `batch_size / num_shards` images of every batch.
    shard: index of this worker; its images start at `shard * batch_size / num_shards`.
    flip: whether to mirror each image left to right with probability 1/2, by seed and step.
    labels: class of each image, integers `[N]`; None for batches without labels. Random crops have none.

  Raises:
    InputError (a ValueError): if a batch cannot be divided among the workers, `shard` is invalid, or the labels do not
      belong to the images.

  Examples:
    >>> from flowpp_tf.data import training_batches
    >>> batches = training_batches(np.zeros([5, 8, 8, 1], np.uint8), batch_size=4, seed=0)
    >>> next(iter(batches)).shape
    TensorShape([4, 8, 8, 1])
  """
  check_count("batch_size", batch_size, high=INT32_MAX)
  check_count("start_step", start_step, 0, INT32_MAX)
  if not -(2**63) <= seed < 2**63:
    raise InputError(f"`seed` must be an integer of 64 bits, got {seed}")
  images = as_images("images", images)
  if num_shards < 1 or batch_size % num_shards:
    raise InputError(f"`batch_size` must be a multiple of the {num_shards} workers, got {batch_size}")
  if not 0 <= shard < num_shards:
    raise InputError(f"`shard` must be in 0 .. {num_shards - 1}, got {shard}")
  with_labels = _labeller(images, labels)
  count = len(images)
  size = batch_size // num_shards
  most_epochs = (size - 1) // count + 2  # that one batch can span

  def indices(step):
    n = step * batch_size + shard * size + tf.range(size, dtype=tf.int64)
    epoch = n // count
    shuffled = tf.stack(
      [
        tf.random.experimental.index_shuffle(n % count, _key(seed, epoch[0] + e), max_index=count - 1)
        for e in range(most_epochs)
      ]
    )
    return tf.gather(tf.transpose(shuffled), epoch - epoch[0], axis=1, batch_dims=1)

  def draw(step, stream, dtype=tf.float32):
    # For the global batch, so that the number of workers does not matter.
    draws = tf.random.stateless_uniform([batch_size], _key(seed, step, stream), dtype=dtype)
    return draws[shard * size : (shard + 1) * size]

  photographs = photographs_of(images)

  def read(chosen, mirrored):
    if photographs is None:
      return _mirror(images[chosen], mirrored)
    places = photographs.random_places(chosen)
    if photographs.neighbours:
      return _read_tiles(images, photographs, places, mirrored)
    return _mirror(_reduce(images, photographs.cut(places)), mirrored)

  def batch(step):
    mirrored = draw(step, _FLIP) < 0.5 if flip else tf.zeros([size], tf.bool)
    chosen = indices(step) if photographs is None else draw(step, _CROP, tf.float64)
    return with_labels(_look_up(read, [chosen, mirrored], images), chosen)

  return (
    tf.data.Dataset.range(start_step, tf.int64.max)
    .map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    .prefetch(tf.data.AUTOTUNE)
  )


@check_arguments
def evaluation_batches(images: Images, batch_size: int, labels: np.ndarray | None = None) -> tf.data.Dataset:
  """Return a `tf.data.Dataset` of all images in order; the last batch can be smaller.

  Args:
    images: `[N, H, W, C]`.
    batch_size: number of images in a batch.
    labels: as for `training_batches`.

  Raises:
    InputError (a ValueError): if the labels do not belong to the images.

  Examples:
    >>> from flowpp_tf.data import evaluation_batches
    >>> [batch.shape[0] for batch in evaluation_batches(np.zeros([5, 8, 8, 1], np.uint8), batch_size=2)]
    [2, 2, 1]
  """
  check_count("batch_size", batch_size, high=INT32_MAX)
  images = as_images("images", images)
  with_labels = _labeller(images, labels)
  read = images.__getitem__ if tiles_of(images) is None else functools.partial(grid_tiles, images)
  return (
    tf.data.Dataset.range(len(images))
    .batch(batch_size)
    .map(lambda indices: with_labels(_look_up(read, [indices], images), indices), num_parallel_calls=tf.data.AUTOTUNE)
    .prefetch(tf.data.AUTOTUNE)
  )


def grid_tiles(images: Images, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return tiles of the grid, `[B, H, W, C]`, and their contexts, float32 `[B, H, W, 3 C + 4]`.

  Args:
    images: `RandomCrops` with neighbours, or with fewer bits.
    indices: of the tiles, integers `[B]`.

  Raises:
    InputError (a ValueError): if the images are not tiles with neighbours.
  """
  photographs = tiles_of(images)
  if photographs is None:
    raise InputError("the images must be tiles with neighbours, see `RandomCrops`")
  return _read_tiles(images, photographs, photographs.grid_places(indices))


class DataPipeline:
  """Batches of the splits of a data set, with what its images are given.

  Args:
    dataset: `ImageDataset`.
    condition: makes the condition `[B, ...]` of integer images `[B, H, W, C]`; None for none.
    labels: whether batches have the labels.

  Examples:
    >>> from flowpp_tf.data import DataPipeline, load_dataset
    >>> batches = DataPipeline(load_dataset("digits", labels=True), labels=True)
    >>> next(iter(batches.evaluation_batches("test", batch_size=3)))["label"].shape
    TensorShape([3])
  """

  @check_arguments
  def __init__(
    self, dataset: ImageDataset, condition: Callable[[tf.Tensor], tf.Tensor] | None = None, labels: bool = False
  ) -> None:
    self.dataset = dataset
    self._condition = condition
    self._labels = labels

  def training_batches(
    self, batch_size: int, seed: int, start_step: int = 0, num_shards: int = 1, shard: int = 0, flip: bool = False
  ) -> tf.data.Dataset:
    """Return `training_batches` of the training split."""
    return self._given(
      training_batches(
        self.dataset.train, batch_size, seed, start_step, num_shards, shard, flip, self._labels_of("train")
      )
    )

  @check_arguments
  def evaluation_batches(self, split: str, batch_size: int) -> tf.data.Dataset:
    """Return `evaluation_batches` of a split."""
    return self._given(evaluation_batches(self.dataset.split(split), batch_size, self._labels_of(split)))

  def _labels_of(self, split):
    return self.dataset.labels_of(split) if self._labels else None

  def _given(self, batches):
    if self._condition is None:
      return batches
    condition = self._condition
    with_image = lambda batch: batch if isinstance(batch, dict) else {"image": batch}
    return batches.map(with_image).map(lambda batch: {**batch, "condition": condition(batch["image"])})


@check_arguments
def weighted_batches(batches: tf.data.Dataset, multiple: int) -> tf.data.Dataset:
  """Return batches `(batch, weights, weights)` for `keras.Model.evaluate` on several devices.

  Each batch, with labels or without, is padded to a multiple of `multiple` images; the padding has weight 0.

  Raises:
    InputError (a ValueError): if `multiple` is not positive.

  Examples:
    >>> from flowpp_tf.data import evaluation_batches, weighted_batches
    >>> batches = evaluation_batches(np.zeros([3, 8, 8, 1], np.uint8), batch_size=3)
    >>> images, weights, _ = next(iter(weighted_batches(batches, multiple=2)))
    >>> weights.numpy().tolist()
    [1.0, 1.0, 1.0, 0.0]
  """
  check_count("multiple", multiple, high=INT32_MAX)

  def fill(batch):
    count = tf.shape(tf.nest.flatten(batch)[0])[0]
    extra = -count % multiple
    weights = tf.cast(tf.range(count + extra) < count, tf.float32)

    def repeat_last(x):
      copies = tf.gather(x, tf.fill([extra], count - 1))
      return tf.concat([x, copies], axis=0)

    padded = tf.nest.map_structure(repeat_last, batch)
    # Keras expects targets before weights; the weights also take their place.
    return padded, weights, weights

  return batches.map(fill)


def _labeller(images, labels):
  """Return a function of a batch of images and their indices that adds their labels, if there are any."""
  if labels is None:
    return lambda batch, indices: batch
  if photographs_of(images) is not None:
    raise InputError("`labels` must be None for photographs: random crops have no labels")
  classes = tf.constant(as_labels(labels, len(images)))
  return lambda batch, indices: {"image": batch, "label": tf.gather(classes, indices)}


def _key(seed, n, stream=0):
  # index_shuffle is a cipher of positions; keys that are small numbers would mix them poorly.
  state = tf.stack([tf.constant(seed, tf.int64), n])
  if stream:
    state = tf.random.experimental.stateless_fold_in(state, stream)
  return tf.random.stateless_uniform([2], state, None, None, tf.int32)


def _reduce(images, values):
  """Return values of the photographs behind images with as many bits as the images."""
  return images.reduce(values) if isinstance(images, ReducedBits) else values


def _read_tiles(images, photographs, places, mirrored=None):
  """Return the tiles at some places of photographs with the bits of images, and their contexts."""
  regions, present = photographs.cut_regions(places, mirrored)
  regions = _reduce(images, regions)
  context = tile_context(regions[:, :-1], present, _reduce(images, photographs.levels))
  return regions[:, -1], context.astype(np.float32)


def _mirror(batch, mirrored):
  if np.any(mirrored):
    batch[mirrored] = batch[mirrored, :, ::-1]
  return batch


def _look_up(read, arguments, images):
  """Return the images that `read` returns for some arguments, and the contexts of tiles, as tensors of known shape."""
  batch_shape = [arguments[0].shape[0], *images.shape[1:]]
  if tiles_of(images) is None:
    return tf.ensure_shape(tf.numpy_function(read, arguments, images.dtype, stateful=False), batch_shape)
  tiles, contexts = tf.numpy_function(read, arguments, [images.dtype, np.float32], stateful=False)
  context_shape = [*batch_shape[:-1], context_channels(images.shape[-1])]
  return {"image": tf.ensure_shape(tiles, batch_shape), "condition": tf.ensure_shape(contexts, context_shape)}

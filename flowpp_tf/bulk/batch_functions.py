"""Functions of batches of images, for an engine that spreads them over machines. docs/bulk.md shows Ray Data.

A batch is a `dict` of columns, as Ray Data's `map_batches` has them: "image", uint8 `[N, H, W, C]`, or `[N, H, W]` for
one channel, and any others, which stay. A worker makes the function once, which loads the model, and calls it with each
batch. All numbers of a batch follow from its images, the model and the arguments, so that a batch that is computed
again, since a worker died, is the same.
"""

import hashlib
import pathlib
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from flowpp_tf.compression import Codec, compress
from flowpp_tf.core.checks import as_array, check_arguments, check_count
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.lanes import use_cpu_lanes
from flowpp_tf.evaluation import BatchedModel, Scorer
from flowpp_tf.io.files import write_file, writing
from flowpp_tf.io.model_folders import ABOUT, CONFIG, presets
from flowpp_tf.models import FlowPlusPlus
from flowpp_tf.training import Workdir
from flowpp_tf.types import Path, Seed

Batch: TypeAlias = dict[str, np.ndarray]
IMAGE = "image"


class _BatchFunction:
  """Holds a model, of a preset's name or folder or of a run's folder.

  A worker is one of many on its machine. So it sets up TensorFlow as `--cpu_splits=1` of the programs does, whose
  numbers it then has to the bit. A process that has used TensorFlow before stays as it is.
  """

  def __init__(self, model: Path, batch_size: int = 1) -> None:
    check_count("batch_size", batch_size, high=1 << 16)
    self._batch_size = batch_size
    if _is_unused():
      use_cpu_lanes(1)
    folder = pathlib.Path(model).expanduser()
    is_run = (folder / CONFIG).is_file() and not (folder / ABOUT).is_file()
    if is_run and str(model) in presets():
      raise InputError(f"`model` {str(model)!r} is a preset, and the folder of a run: give its whole path")
    self._model = Workdir(folder).load()[0] if is_run else FlowPlusPlus.from_preset(model)

  def _images(self, batch, *columns):
    """Return the images of a batch, which has no column of a name that the function adds."""
    if not isinstance(batch, dict) or IMAGE not in batch:
      found = ", ".join(map(repr, batch)) if isinstance(batch, dict) else type(batch).__name__
      raise InputError(f"`batch` must be a dict with a column {IMAGE!r}, got {found}")
    taken = [name for name in columns if name in batch]
    if taken:  # perhaps of another model: the one would replace the other
      raise InputError(f"`batch` must have no column {taken[0]!r}, which would be replaced: rename it")
    images = as_array(IMAGE, batch[IMAGE])
    shape = self._model.config.image_shape
    if images.ndim == 3 and shape[-1] == 1:  # grey, as Ray Data reads it
      images = images[..., np.newaxis]
    return as_array(IMAGE, images, [None, *shape])


class ScoreImages(_BatchFunction):
  """Adds the scores of `bin/score` to a batch: log_likelihood (nats), bits_per_dim, complexity_corrected, png_bytes.

  Args:
    model: name or folder of a preset, or folder of a run.
    num_samples: samples of the importance-weighted bound.
    seed: seed of the draws, the same for all images.
    batch_size: images at a time; a smaller batch is filled up to it. Scores equal the scores of `Scorer` for the same
      batch to the bit. In another batch an image's score may differ in the last bits of float32.

  Raises:
    InputError (a ValueError): for wrong arguments, and from a call for images that do not fit the model, and for a
      batch that has a column of this name already.

  Examples:
    >>> from flowpp_tf.bulk import ScoreImages
    >>> score = ScoreImages("digits", num_samples=2)
    >>> batch = score({"image": np.zeros([3, 8, 8, 1], np.uint8), "name": np.array(["a", "b", "c"])})
    >>> batch["bits_per_dim"].shape, batch["name"].tolist()
    ((3,), ['a', 'b', 'c'])
  """

  @check_arguments
  def __init__(self, model: Path, num_samples: int = 16, seed: Seed = 0, batch_size: int = 100) -> None:
    super().__init__(model, batch_size)
    self._scorer = Scorer(self._model, num_samples, seed)
    self._names = [name for name in self._scorer.names if name != "typicality"]  # which needs a validation split

  def __call__(self, batch: Batch) -> Batch:
    """Return the batch with a column for each score."""
    images = self._images(batch, *self._names)
    scores = self._scorer(_filled(images, self._batch_size), self._batch_size)
    return {**batch, **{name: scores[name][: len(images)] for name in self._names}}


class EncodeImages(_BatchFunction):
  """Adds a column "latent" to a batch, `[N, *latent_shape]`: the latents of `FlowPlusPlus.encode`.

  All images get the same draw of the dequantization noise, so that a latent follows from its image. Arguments and
  errors as of `ScoreImages`.

  Examples:
    >>> from flowpp_tf.bulk import EncodeImages
    >>> encode = EncodeImages("digits")
    >>> encode({"image": np.zeros([3, 8, 8, 1], np.uint8)})["latent"].shape
    (3, 4, 4, 4)
  """

  @check_arguments
  def __init__(self, model: Path, seed: Seed = 0, batch_size: int = 100) -> None:
    super().__init__(model, batch_size)
    self._batched = BatchedModel(self._model, batch_size)
    self._noise = self._model.sample_noise([1], seed)

  def __call__(self, batch: Batch) -> Batch:
    """Return the batch with the column "latent"."""
    images = self._images(batch, "latent")
    filled = _filled(images, self._batch_size)
    latents = self._batched.encode(filled, tf.repeat(self._noise, len(filled), axis=0))
    return {**batch, "latent": latents[: len(images)]}


class CompressImages(_BatchFunction):
  """Writes the images of each batch as an archive, and says which archive has which image.

  Args:
    model: as of `ScoreImages`.
    output: folder of the archives, which all workers share; made if it is missing.
    embed_model: whether each archive holds the model.

  A call returns the other columns of the batch with "archive", the name of its file, and "position", the index of the
  image in it: `bin/decompress` and `fpp.decompress` read the files. The name is a hash of the images, the model and the
  arguments, so that a batch that is computed again replaces its own file, and no other.

  Raises:
    InputError (a ValueError): as of `ScoreImages`, and if `output` cannot be written.

  Examples:
    >>> from flowpp_tf.bulk import CompressImages
    >>> compress = CompressImages("digits", output="archives")
    >>> row = compress({"image": np.zeros([3, 8, 8, 1], np.uint8)})
    >>> with open("archives/" + row["archive"][0], "rb") as file:
    ...   fpp.decompress(fpp.FlowPlusPlus.from_preset("digits"), file.read()).shape
    (3, 8, 8, 1)
  """

  @check_arguments
  def __init__(self, model: Path, output: Path, embed_model: bool = False) -> None:
    super().__init__(model)
    self._codec = Codec(self._model)
    self._embed_model = embed_model
    self._kind = f"{self._codec.model.sha256()} {embed_model} ".encode()
    self._output = pathlib.Path(output)
    self._what = f"`output` {str(self._output)!r}"
    with writing(self._what):
      self._output.mkdir(parents=True, exist_ok=True)

  def __call__(self, batch: Batch) -> Batch:
    """Return the batch with the columns "archive" and "position" rather than "image"."""
    images = self._images(batch, "archive", "position")
    archive = compress(self._codec, images, embed_model=self._embed_model)
    # As pixels of one dtype, which they are for certain now: one image of 8 bytes a pixel has the bytes of 8 of one.
    pixels = images.astype(self._codec.dtype).tobytes()
    name = f"images_{hashlib.sha256(self._kind + pixels).hexdigest()[:20]}.fpp"
    with writing(self._what):
      write_file(self._output / name, archive)
    others = {column: values for column, values in batch.items() if column != IMAGE}
    count = len(images)
    return {**others, "archive": np.full(count, name), "position": np.arange(count)}


def _is_unused():
  """Return whether TensorFlow has not used its devices in this process: then threads may still be set."""
  threads = tf.config.threading.get_inter_op_parallelism_threads()
  try:
    tf.config.threading.set_inter_op_parallelism_threads(threads + 1)
  except RuntimeError:
    return False
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  return True


def _filled(images, size):
  """Return images, the last one repeated up to a multiple of a batch size."""
  missing = -len(images) % size
  if not missing:
    return images
  copies = np.repeat(images[-1:], missing, axis=0)
  return np.concatenate([images, copies])

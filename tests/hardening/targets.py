"""What is fuzzed: six readers of files from outside. Each returns right answers and raises nothing but `InputError`.

A target has `seeds()`, `mutate(data, rng)` and `run(data)`. What `run` raises, other than an `InputError`, is a
failure: `Wrong` for an answer that is not the truth.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import sys
import tempfile
from unittest import mock

from absl import flags
import keras
import numpy as np
from PIL import Image
import safetensors.numpy

from flowpp_tf.compression import ArchiveReader, LostImagesError, decompress
from flowpp_tf.compression.files.pictures import Lost, read_pictures
from flowpp_tf.compression.files.reading import read_picture
from flowpp_tf.config.model import CONFIGS, FlowPlusPlusConfig
from flowpp_tf.config.recipe import Recipe
from flowpp_tf.config.structure import parse_structure
from flowpp_tf.config.training import TrainingConfig
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import images
from flowpp_tf.data.folder import _read_splits
from flowpp_tf.demo.card import about
from flowpp_tf.evaluation import BitsPerDim, Bound, load_typical, read_record, write_record
from flowpp_tf.io import budget, gate
from flowpp_tf.io.weights_file import read_weights, weights_to_bytes
from flowpp_tf.pretrained.presets import open_preset
from flowpp_tf.programs import command
from flowpp_tf.programs.options import options_from_flags
from flowpp_tf.training import workdir
from hardening import archives
from hardening.mutations import mutate_bytes, mutate_json, mutate_lines, sign_png
from support.files import encoded
from support.programs import _own_flags

# Far below the defaults, so that what takes more is seen in a process that may not have much more.
SMALL_BUDGET = budget.Budget(bytes_in=64 << 20, memory=64 << 20, pixels=1 << 20, items=1 << 14, bytes_out=32 << 20)
KEPT = pathlib.Path(__file__).parent.parent / "data" / "fuzz"  # inputs on which a target failed once


class Wrong(Exception):
  """Raised for a right answer that is wrong, or for words that are none."""


class Target:
  """A reader; `folder` is one that it may write to."""

  name = ""

  def __init__(self):
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"fuzz_{self.name}_"))

  def seeds(self):
    """Contents to begin with."""
    raise NotImplementedError

  def mutate(self, data, rng):
    return mutate_bytes(data, rng, rng.choice(self.corpus))

  @functools.cached_property
  def corpus(self):
    """The seeds, and what is kept of earlier findings."""
    return [*self.seeds(), *(path.read_bytes() for path in sorted((KEPT / self.name).glob("*")))]

  def run(self, data):
    raise NotImplementedError

  def __call__(self, data):
    """Read what was drawn; return whether it was accepted."""
    with budget.use(SMALL_BUDGET):
      try:
        self.run(data)
        return True
      except InputError as error:
        check_words(error)
        return False

  def write(self, name, data):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def check_words(error):
  text = str(error)
  if "\n" in text or len(text) > 2_010 or not text:
    raise Wrong(f"no line: {text[:1000]!r}")
  if "more memory than there is" in text or "std::bad_alloc" in text or "Unable to allocate" in text:
    raise Wrong(f"memory was not claimed: {text[:300]}")


class Archive(Target):
  """Damaged archives, and those whose checksums were made right: other pixels never come without a word."""

  name = "archive"

  def seeds(self):
    with contextlib.suppress(ImportError):
      import flowpp_tf.compression.loops  # noqa: F401  # which compiles them: later it would look like a hang
    return [archives.of_arrays(), archives.of_arrays(embed_model=True, segment_images=24), archives.of_files()]

  def mutate(self, data, rng):
    data = super().mutate(data, rng)
    return archives.sign(data) if rng.randrange(3) else data

  def run(self, data):
    reader = ArchiveReader(io.BytesIO(data))
    if reader.header.kind == "files":
      self._check_files(reader)
      return
    truth = archives.truth()
    model = (
      None
      if reader.model is not None and reader.header.model != archives.grey_codec().model_hash
      else archives.grey_codec()
    )
    try:
      images = decompress(model, data)
    except LostImagesError as error:
      images, known = error.images, np.setdiff1d(np.arange(len(error.images)), error.lost)
      if model is not None and not (known.max(initial=0) < len(truth) and np.array_equal(images[known], truth[known])):
        raise Wrong("pixels that are said to be right are wrong") from None
      raise
    if model is not None and not np.array_equal(images, truth):
      raise Wrong(f"other pixels without a word: {images.shape}")

  def _check_files(self, reader):
    truth, lost = {picture.name: picture.content for picture in archives.pictures()}, []
    for item in read_pictures(reader, archives.grey_codec()):
      if isinstance(item, Lost):
        lost.append(item)
      elif truth.pop(item.name, None) != item.content:
        raise Wrong(f"another file without a word: {item.name!r}")
    if truth and not lost:
      raise Wrong(f"files are missing without a word: {[*truth]}")


class Weights(Target):
  """Weights files: the arrays of one that is read are those that were written, or it is refused."""

  name = "weights"

  @functools.cached_property
  def _files(self):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
      [keras.layers.Input([3]), keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")]
    )
    return [weights_to_bytes(model, {"step": 3}, dtype) for dtype in (None, "float16")]

  @functools.cached_property
  def _truth(self):
    return [self._values(safetensors.numpy.load(content)) for content in self._files]

  @staticmethod
  def _values(arrays):
    return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}

  def seeds(self):
    return self._files

  def run(self, data):
    weights = read_weights(self.write("a.safetensors", data))
    if weights.about and self._values(weights.arrays) not in self._truth:
      raise Wrong("other weights without a word")


class Config(Target):
  """JSON that says what a model or a run is: config.json of runs, of presets and of SavedModels, and settings."""

  name = "config"

  def seeds(self):
    training = {
      **TrainingConfig(steps=2).identity(),
      "fingerprint": {"sha256": "0" * 64, "digest": "0"},
      "dataset": "d",
    }
    configs = [
      dataclasses.asdict(CONFIGS[name]) for name in ("digits", "cifar10_vflow", "digits_by_class", "imagenet32")
    ]
    runs = [{"format": 2, "model": config, "training": training} for config in configs]
    return [json.dumps(value).encode() for value in (*runs, *configs, {"filters": 8, "steps": 3, "schedule": "cosine"})]

  def mutate(self, data, rng):
    return mutate_json(data, rng)

  def run(self, data):
    path = self.write("run/config.json", data)
    about = {"description": "", "sha256": "0" * 64}
    self.write("run/preset.json", json.dumps(about).encode())
    accepted = self._of_run(path.parent)
    self._of_preset(path.parent)
    with contextlib.suppress(ValueError):
      value = gate.parse_json(data.decode("utf-8-sig"))
      if isinstance(value, dict) and "model" not in value:
        known = {k: v for k, v in value.items() if k in FlowPlusPlusConfig.__dataclass_fields__}
        self._of_settings(lambda: FlowPlusPlusConfig(**known))
        recipe = self._of_settings(lambda: Recipe.load("digits").replace(**value))
        config = recipe and self._of_settings(lambda: recipe.config)
        if config:
          parse_structure(config.structure, config.flow_shape)
    if not accepted:
      raise InputError("it was refused")

  @staticmethod
  def _of_settings(make):
    try:
      return make()
    except (InputError, TypeError) as error:  # a type that an annotation does not allow
      check_words(error)
      return None

  @staticmethod
  def _of_run(folder):
    """`Workdir.load`, up to the model."""
    with mock.patch.object(workdir, "FlowPlusPlus", lambda config: config):
      run = workdir.Workdir(folder)
      run._read_best = lambda: type("Weights", (), {"about": {}, "load": staticmethod(lambda model: None)})
      try:
        run.load()
        return True
      except InputError as error:
        check_words(error)
        return False

  @staticmethod
  def _of_preset(folder):
    try:
      open_preset(folder)
    except InputError as error:
      check_words(error)


class Images(Target):
  """Image files, as data, as files to compress, and as PNGs with right checksums."""

  name = "images"

  def seeds(self):
    rng, found = np.random.default_rng(0), []
    for mode, shape, kinds in (
      ("RGB", (9, 7, 3), ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")),
      ("L", (5, 6), ("PNG", "GIF", "TIFF")),
      ("RGBA", (4, 4, 4), ("PNG", "WEBP")),
      ("P", (4, 4), ("PNG",)),
    ):
      image = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8), mode) if mode != "P" else found[0]
      image = image if mode != "P" else Image.fromarray(rng.integers(0, 9, shape).astype(np.uint8)).convert("P")
      for kind in kinds:
        found.append(encoded(kind, image, **({"lossless": True} if kind == "WEBP" else {})))
    return found

  def mutate(self, data, rng):
    data = super().mutate(data, rng)
    return sign_png(data) if data.startswith(b"\x89PNG") and rng.randrange(4) else data

  def run(self, data):
    picture = read_picture(self.folder, self.write("image", data).name, 3)
    if picture.pixels is None and picture.data != data:
      raise Wrong("a file that is kept is another")
    image, _ = images.read_image(io.BytesIO(data), (8, 8, 3), "image")
    if image.shape != (8, 8, 3) or image.dtype != np.uint8:
      raise Wrong(f"an image of {image.dtype} and shape {image.shape}")
    images.upright_size(io.BytesIO(data))


class Metadata(Target):
  """Files of text next to a model or to data; the first byte says which one."""

  name = "metadata"

  def seeds(self):
    pretrained = pathlib.Path(gate.__file__).parent.parent / "pretrained" / "digits"
    split = {"train": ["a.png", "b/c.png"], "validation": ["d.png"], "test": ["e.png"]}
    data = {"name": "d", "version": None, "splits": {"train": 1, "validation": 1, "test": 1}, "levels": 8}
    bounds = [{"num_samples": 1, "bits_per_dim": 2.0}]
    evaluation = {"test": {"images": 3, "bounds": bounds}}
    metadata = {"max_batch": 2, "data": {**data, "image_shape": [8, 8, 1], "digest": "ab"}, "evaluation": evaluation}
    metadata["checkpoint"] = {"val_bits_per_dim": 2.0}
    texts = [
      json.dumps(metadata),
      json.dumps(split),
      "split,name\ntrain,a.png\ntrain b/c.png\nvalidation;d.png\ntest e.png\n",
      (pretrained / "preset.json").read_text(),
      (pretrained / "evaluation.json").read_text(),
      (pretrained / "typicality.json").read_text(),
      (pretrained / "metrics.jsonl").read_text()[:600],
    ]
    return [bytes([i]) + text.encode() for i, text in enumerate(texts)]

  def mutate(self, data, rng):
    kind, text = data[:1] or b"\0", data[1:]
    if kind[0] % 7 in (2, 6):
      return kind + mutate_lines(text or b"\n", rng)
    return kind + mutate_json(text, rng)

  def run(self, data):
    kind, text = (data[0] if data else 0) % 7, data[1:]
    (self._metadata, self._splits, self._splits, self._preset, self._record, self._typicality, self._rows)[kind](
      text, kind
    )

  def _metadata(self, text, kind):
    class Engine:
      parameters = 3

      class config:
        image_shape, levels = (8, 8, 1), 8

    with gate.reading(self.write("metadata.json", text)):
      metadata = gate.read_json(self.folder / "metadata.json")
    if isinstance(metadata, dict):  # as a SavedModel's loader asks for
      with gate.reading("metadata.json"):
        about("model", Engine, metadata)

  def _splits(self, text, kind):
    path = self.write("splits.json" if kind == 1 else "splits.txt", text)
    _read_splits(path, {"a.png", "b/c.png", "d.png", "e.png"})

  def _preset(self, text, kind):
    self.write("preset/config.json", b'{"model": {}}')
    self.write("preset/best.weights.safetensors", b"")
    open_preset(self.write("preset/preset.json", text).parent)

  def _record(self, text, kind):
    path = self.write("evaluation.json", text)
    read_record(path)
    write_record(path, "test", BitsPerDim(4, (Bound(1, 3.0, 0.1),), {}), {"sha256": "0"}, {"sha256": "0"}, seed=0)

  def _typicality(self, text, kind):
    load_typical(self.write("typicality.json", text), {"weights": "0"})
    with contextlib.suppress(ValueError, TypeError, KeyError):  # with the key that the file says
      load_typical(self.folder / "typicality.json", gate.parse_json(text.decode())["key"])

  def _rows(self, text, kind):
    self.write("run/metrics.jsonl", text)
    workdir.Workdir(self.folder / "run").rows()


class Flags(Target):
  """Flag files and values; the first byte says whose. Parsed, made settings of, and no further."""

  name = "flags"
  programs = ("train", "evaluate", "sample", "score", "compress", "decompress", "export", "demo")

  def seeds(self):
    lines = {
      "train": "--config=digits\n--steps=3\n--filters=4\n--structure=columns:1\n--schedule=cosine\n--precision=float16",
      "evaluate": "--preset=digits\n--num_samples=1,16\n--limit=4\n--memory=8G",
      "sample": "--workdir=w\n--n=2\n--temperature=0.5,1\n--labels=1,2\n--frames=3",
      "score": "--images=a.png,b.png\n--typical_images=4\n--max_pixels=200M",
      "compress": "--images=a\n--output=b.fpp\n--segment_images=3",
      "decompress": "a.fpp\n--files=a,b\n--max_output=2G\n--list",
      "export": "--workdir=w\n--overwrite",
      "demo": "--port=80\n--host=0.0.0.0\n--auth=a:b",
    }
    return [bytes([i]) + lines[name].encode() for i, name in enumerate(self.programs)]

  @functools.cached_property
  def _words(self):
    with self._defined("train"):
      names = {*flags.FLAGS}
    with self._defined("sample"):
      names |= {*flags.FLAGS}
    return sorted(name.encode() for name in names)

  def mutate(self, data, rng):
    return (data[:1] or b"\0") + mutate_lines(data[1:] or b"\n", rng, self._words)

  @contextlib.contextmanager
  def _defined(self, name):
    with _own_flags(), mock.patch.object(sys, "argv", [name]):
      command.define_flags(command.options_of(name))
      yield
      flags.FLAGS.unparse_flags()

  def run(self, data):
    name, lines = self.programs[(data[0] if data else 0) % 8], data[1:].split(b"\n")
    arguments = [os.fsdecode(line) for line in lines]
    self._parse(name, arguments)
    if b"flagfile" not in data:
      self._parse(name, [f"--flagfile={self.write('flags', data[1:])}"])

  def _parse(self, name, arguments):
    options_class = command.options_of(name)
    out, error = io.StringIO(), io.StringIO()
    with self._defined(name), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
      try:
        rest = command.parse_flags(options_class, [name, *arguments])
      except SystemExit as end:
        text = error.getvalue()
        if end.code not in (0, 2) or end.code == 2 and text.count("\n") != 1:
          raise Wrong(f"exit code {end.code}: {text}") from None
        return
      command.read_budget()
      options = options_from_flags(options_class, rest[1:])
      if name == "train":
        options.recipe().config  # noqa: B018


TARGETS = {target.name: target for target in (Archive, Weights, Config, Images, Metadata, Flags)}

"""A trained model as a SavedModel: what bin/export writes, in TensorFlow alone, and bad calls of it."""

import contextlib
import io
import itertools
import json
import pathlib
import re
import subprocess

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow as tf

import flowpp_tf as fpp
from support.files import contents
from support.models import SMALL, perturbed, small_config, small_images
from support.programs import ROOT, call, refusal, run
from support.refusing import refuses
from support.training_steps import stored_run

SERVING = (ROOT / "docs" / "serving.md").read_text()
CONFIG = small_config(  # short: every function of it is traced
  SMALL, structure="squeeze,channels:1", dequant_structure="columns:1"
)
MAX_BATCH = 64
SEED = 2**40 + 3  # of both halves
FINGERPRINT = {"name": "noise", "sha256": "0f", "digest": "0"}


@pytest.fixture(scope="module")
def model():
  return perturbed(CONFIG)


@pytest.fixture(scope="module")
def workdir(model, tmp_path_factory):
  """A finished run with its SavedModel."""
  workdir = stored_run(tmp_path_factory.mktemp("run"), model, dataset="noise", fingerprint=FINGERPRINT)
  workdir.metrics.write_text(
    "".join(
      json.dumps({"step": step, "val_bits_per_dim": bits}) + "\n"
      for step, bits in ((1, 3.5), (2, 3.25), (3, float("nan")))
    )
  )
  entry = lambda sha256: {"images": 180, "checkpoint": {"sha256": sha256}}
  workdir.evaluation.write_text(
    json.dumps(  # of train, under the weights of before
      {"test": entry(workdir.weights_info()["sha256"]), "train": entry("0")}
    )
  )
  result = call("export", f"--workdir={workdir.path}", f"--max_batch={MAX_BATCH}", cwd=workdir.path).ok()
  assert result.out == f"wrote {workdir.path}/saved_model/1\n"
  return workdir


@pytest.fixture(scope="module")
def path(workdir):
  return workdir.path / "saved_model" / "1"


@pytest.fixture(scope="module")
def flow(path):
  return fpp.load_saved_model(path)


@pytest.fixture(scope="module")
def loaded(flow):
  return flow.saved_model


def calls(batch):
  """Good arguments of each signature but `decode`, with a batch size."""
  images = dict(images=small_images(batch).astype(np.float32), seed=np.int64(SEED))
  several = dict(images, num_samples=np.int32(2))
  return dict(
    sample=dict(n=np.int32(batch), temperature=np.float32(0.7), seed=np.int64(SEED)),
    log_prob_bound=several,
    bits_per_dim=several,
    serving_default=several,
    encode=images,
  )


def expected(model, batch):
  """What the model itself gives for `calls`."""
  images = small_images(batch)
  bits = model.bits_per_dim(images, 2, seed=SEED)
  return dict(
    sample=model.sample(batch, 0.7, SEED),
    bits_per_dim=bits,
    serving_default=bits,
    log_prob_bound=model.log_prob_bound(images, 2, seed=SEED),
    encode=model.encode(images, seed=SEED),
  )


# For a process where nothing of ours can be imported. Keras comes with TensorFlow, without our layers.
ONLY_TENSORFLOW = """
import sys
class Blocked:
  def find_spec(self, name, *_):
    if name.partition(".")[0] in ("flowpp_tf", "tensorflow_probability", "tf_keras"):
      raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import numpy as np
import tensorflow as tf
path, calls, results = sys.argv[1:]
loaded = tf.saved_model.load(path)
given, got = np.load(calls), {}
for batch in ("1", "3", "17"):
  for name, signature in loaded.signatures.items():
    specs = signature.structured_input_signature[1]
    if name == "decode":
      arguments = {"latents": got[batch + "/encode"]}
    else:
      arguments = {key: given["/".join((batch, name, key))] for key in specs}
    got[batch + "/" + name], = signature(**{k: tf.constant(v) for k, v in arguments.items()}).values()
np.savez(results, **got)
"""


@pytest.mark.slow
def test_tensorflow_alone_gives_the_same_as_the_model_for_every_batch_size(model, path, tmp_path):
  np.savez(
    tmp_path / "calls.npz",
    **{
      f"{batch}/{name}/{key}": value
      for batch in (1, 3, 17)
      for name, arguments in calls(batch).items()
      for key, value in arguments.items()
    },
  )
  run(["-c", ONLY_TENSORFLOW], path, tmp_path / "calls.npz", tmp_path / "results.npz", cwd=tmp_path).ok()
  results = np.load(tmp_path / "results.npz")
  for batch in (1, 3, 17):
    np.testing.assert_array_equal(results[f"{batch}/decode"], small_images(batch))
    for name, value in expected(model, batch).items():
      np.testing.assert_allclose(results[f"{batch}/{name}"], value, rtol=1e-5, atol=1e-5, err_msg=name)
      assert results[f"{batch}/{name}"].dtype == value.dtype


@pytest.mark.slow
def test_what_is_not_given_is_one_sample_seed_0_and_temperature_1(model, path, loaded):
  images = small_images(3)
  np.testing.assert_array_equal(loaded.sample(3)["images"], model.sample(3, seed=0))
  np.testing.assert_allclose(loaded.bits_per_dim(images)["bits_per_dim"], model.bits_per_dim(images, seed=0), rtol=1e-5)
  # The same in the signatures, for TensorFlow Serving.
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    definitions = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def
  defaults = {
    name: {key: tf.make_ndarray(value) for key, value in definition.defaults.items()}
    for name, definition in definitions.items()
  }
  assert defaults["sample"] == {"temperature": 1.0, "seed": 0}
  assert defaults["encode"] == {"seed": 0} and defaults["decode"] == {}
  for name in ("log_prob_bound", "bits_per_dim", "serving_default"):
    assert defaults[name] == {"num_samples": 1, "seed": 0}


@pytest.mark.slow
def test_the_bound_of_tensorflow_alone_has_the_gradients_of_the_model(model, loaded):
  images = small_images(3)
  with tf.GradientTape() as tape:
    bound = tf.reduce_sum(loaded.log_prob_bound(images)["log_prob_bound"])
  gradients = tape.gradient(bound, loaded.weights)
  with tf.GradientTape() as tape:
    bound = tf.reduce_sum(model.log_prob_bound(images, seed=0))
  expected_gradients = tape.gradient(bound, [v.value for v in model.weights])
  rounding = 1e-6 * max(np.max(np.abs(gradient)) for gradient in expected_gradients)
  for weight, ours, models in zip(loaded.weights, gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(ours, models, rtol=1e-5, atol=rounding, err_msg=weight.name)


def test_assets_say_what_the_model_is_and_what_was_measured(model, workdir, path, loaded):
  config = json.loads((path / "assets" / "config.json").read_text())
  assert fpp.FlowPlusPlusConfig(**config) == model.config
  metadata = json.loads(pathlib.Path(loaded.metadata_file.asset_path.numpy().decode()).read_text())
  assert metadata.pop("versions")["tensorflow"] == tf.__version__
  assert metadata["checkpoint"]["val_bits_per_dim"] == 3.25 and metadata["checkpoint"]["step"] == 2
  assert metadata == {
    "data": FINGERPRINT,
    "checkpoint": workdir.weights_info(),
    "evaluation": {
      "test": {"images": 180, "checkpoint": {"sha256": workdir.weights_info()["sha256"]}, "weight_dtype": "float32"}
    },
    "max_batch": MAX_BATCH,
  }


def test_saved_model_cli_shows_names_types_and_shapes(path):
  with contextlib.redirect_stdout(io.StringIO()) as out, flagsaver.flagsaver():
    from tensorflow.python.tools import saved_model_cli  # here, as it defines flags

    saved_model_cli.create_parser().parse_args(["show", "--dir", str(path), "--all"]).func()
  shown = {
    (kind, name): (dtype, shape)
    for kind, name, dtype, shape in re.findall(
      r"(inputs|outputs)\['(\w+)'\] tensor_info:\s+dtype: (\w+)\s+shape: (\(.*\))", out.getvalue()
    )
  }
  assert shown == {
    ("inputs", "images"): ("DT_FLOAT", "(-1, 4, 4, 2)"),
    ("inputs", "n"): ("DT_INT32", "()"),
    ("inputs", "num_samples"): ("DT_INT32", "()"),
    ("inputs", "temperature"): ("DT_FLOAT", "()"),
    ("inputs", "seed"): ("DT_INT64", "()"),
    ("inputs", "latents"): ("DT_FLOAT", "(-1, 2, 2, 8)"),
    ("outputs", "images"): ("DT_UINT8", "(-1, 4, 4, 2)"),
    ("outputs", "latents"): ("DT_FLOAT", "(-1, 2, 2, 8)"),
    ("outputs", "log_prob_bound"): ("DT_FLOAT", "(-1)"),
    ("outputs", "bits_per_dim"): ("DT_FLOAT", "(-1)"),
  }


IMAGES, LATENTS = small_images(3).astype(np.float32), np.zeros([3, 2, 2, 8], np.float32)
# An argument, a value that is wrong for it wherever it is taken, and what the error must say.
MALFORMED = [
  *(("n", n, f"`n` must be from 1 to {MAX_BATCH}, got] [{n}]") for n in (0, -1, MAX_BATCH + 1, 2**31 - 1, -(2**31))),
  *(
    ("temperature", np.float32(t), f"`temperature` must be finite and at least 0, got] [{t:g}]")
    for t in (-1, np.nan, np.inf)
  ),
  *(
    ("images", images, f"`images` must be integers in 0 .. 7, got] [{shown}")
    for images, shown in [(IMAGES + 0.5, "")] + [(np.full_like(IMAGES, x), f"{x:g}") for x in (300, -1, np.nan, np.inf)]
  ),
  *(("num_samples", n, f"`num_samples` must be at least 1, got] [{n}]") for n in (0, -1, -(2**31))),
  *(
    ("num_samples", n, f"`num_samples` times the number of `images` must be at most {MAX_BATCH}, got] [{3 * n}]")
    for n in (MAX_BATCH // 3 + 1, 2**31 - 1)
  ),
  *(("latents", LATENTS + np.float32(x), f"`latents` must be finite, got] [{x:g}]") for x in (np.nan, np.inf, -np.inf)),
  *(
    (name, np.zeros([n, *shape], np.float32), f"number of `{name}` must be from 1 to {MAX_BATCH}, got] [{n}]")
    for name, shape in (("images", CONFIG.image_shape), ("latents", LATENTS.shape[1:]))
    for n in (0, MAX_BATCH + 1)
  ),
]
MISSHAPEN = [
  ("n", np.int32([1, 2])),
  ("temperature", np.ones(2, np.float32)),
  ("num_samples", np.int32([1, 2])),
  ("seed", np.zeros(2, np.int64)),
  ("images", IMAGES[0]),
  ("images", IMAGES[:, :2]),
  ("images", IMAGES[..., :1]),
  ("images", IMAGES[None]),
  ("images", np.float32(1)),
  ("latents", LATENTS[0]),
  ("latents", LATENTS[..., :1]),
  ("latents", LATENTS.reshape(3, 32)),
]
MISTYPED = [
  ("n", 1.0),
  ("n", np.int64(1)),
  ("temperature", 1),
  ("num_samples", 1.0),
  ("seed", np.int32(0)),
  ("images", IMAGES.astype(np.uint8)),
  ("images", IMAGES.astype(np.int32)),
  ("latents", LATENTS.astype(int)),
]


def bad_calls(loaded, cases):
  """Of each case and signature that takes its argument: name, tensors, and the case."""
  good = {**calls(3), "decode": {"latents": LATENTS}}
  for argument, value, *message in cases:
    for name in loaded.signatures:
      if argument in good[name]:
        given = {key: tf.constant(v) for key, v in {**good[name], argument: value}.items()}
        yield name, given, argument, *message


def test_malformed_calls_get_an_error_that_names_the_argument(loaded):
  for name, given, argument, message in bad_calls(loaded, MALFORMED):
    for function in {loaded.signatures[name], getattr(loaded, name, loaded.signatures[name])}:
      with pytest.raises(tf.errors.InvalidArgumentError) as error:
        function(**given)
      assert message in str(error.value)
  for name, given, argument in bad_calls(loaded, MISSHAPEN):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"Shape of tensor (.*/)?{argument} "):
      loaded.signatures[name](**given)
  for name, given, argument in bad_calls(loaded, MISTYPED):
    with pytest.raises(tf.errors.InvalidArgumentError, match="was expected to be a") as error:
      loaded.signatures[name](**given)
    assert f"name='{argument}'" in str(error.value.__context__)  # what the traceback says first
  for name, given, argument in bad_calls(loaded, MISSHAPEN + MISTYPED):
    if hasattr(loaded, name):
      with pytest.raises(TypeError, match=f"Can not cast TensorSpec.*name='{argument}'"):
        getattr(loaded, name)(**given)


@pytest.mark.slow
def test_after_a_thousand_malformed_calls_a_good_one_is_answered(model, loaded):
  bad = [(name, given) for name, given, *_ in bad_calls(loaded, MALFORMED)]
  bad += [(name, given) for name, given, *_ in bad_calls(loaded, MISSHAPEN + MISTYPED)]
  for name, given in itertools.islice(itertools.cycle(bad), 1000):
    with pytest.raises(tf.errors.InvalidArgumentError):
      loaded.signatures[name](**given)
  good = calls(1)["sample"]
  np.testing.assert_array_equal(
    loaded.signatures["sample"](**{key: tf.constant(v) for key, v in good.items()})["images"],
    model.sample(1, 0.7, SEED),
  )


def test_a_loaded_model_has_the_methods_of_the_model(model, flow):
  assert flow.config == model.config and flow.metadata["max_batch"] == MAX_BATCH
  images = model.sample(3, 0.7, SEED)
  np.testing.assert_array_equal(flow.sample(3, 0.7, SEED), images)
  assert np.any(flow.sample(3) != flow.sample(3))  # no seed: other images each time
  np.testing.assert_allclose(
    flow.bits_per_dim(images, 2, seed=SEED), model.bits_per_dim(images, 2, seed=SEED), rtol=1e-5
  )
  np.testing.assert_allclose(
    flow.log_prob_bound(images.numpy(), seed=-1), model.log_prob_bound(images, seed=-1), rtol=1e-5
  )
  np.testing.assert_array_equal(flow.decode(flow.encode(images, seed=0)), images)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda m: m.sample(0), f"`n` must be from 1 to {MAX_BATCH}, got 0"),
    (lambda m: m.sample(2.5), "`n` must be an integer"),
    (lambda m: m.sample(1, seed=2**63), "`seed` must be at most 9,223,372,036,854,775,807"),
    (lambda m: m.sample(1, temperature=-1), "`temperature` must be finite and at least 0, got -1.0"),
    (lambda m: m.sample(1, temperature="hot"), "`temperature` must be a finite number, got 'hot'"),
    (lambda m: m.bits_per_dim(IMAGES[0]), r"`images` must be of shape \[B, 4, 4, 2\], got \(4, "),
    (lambda m: m.bits_per_dim(IMAGES, num_samples=0), "`num_samples` must be at least 1, got 0"),
    (
      lambda m: m.bits_per_dim(IMAGES, MAX_BATCH // 3 + 1),
      f"the number of `images` must be at most {MAX_BATCH}, got 66$",
    ),
    (lambda m: m.encode(small_images() + 8.0), "`images` must be integers in 0 .. 7, got 1"),
    (lambda m: m.encode(IMAGES + 0.5), r"`images` must be integers in 0 .. 7, got \d\.5"),
    (lambda m: m.decode(LATENTS * np.nan), "`latents` must be finite, got nan"),
    (lambda m: fpp.load_saved_model(ROOT), "holds no SavedModel of Flow"),
    (lambda m: tf.function(lambda: m.bits_per_dim(IMAGES))(), "within a graph, call `saved_model.bits_per_dim`"),
  ],
)
def test_bad_input_of_a_loaded_model_is_an_input_error(flow, call, message):
  refuses(message, call, flow)


def test_what_is_there_is_kept_unless_told_otherwise(model, path, tmp_path, monkeypatch):
  before = contents(path)
  assert before
  refuses("exists already", fpp.export, model, path)
  with pytest.raises(fpp.InputError, match="`metadata` must be what JSON can hold"):
    fpp.export(model, path, metadata={"x": float("nan")}, overwrite=True)
  with pytest.raises(fpp.InputError, match="^`metadata` has keys that the export writes itself: max_batch$"):
    fpp.export(model, path, metadata={"max_batch": 1}, overwrite=True)
  # With more than int32 has, each call would be refused: the graph compares sizes of that dtype.
  for most, limit in ((0, "at least 1"), (2**31, "at most 2,147,483,647")):
    refuses(f"^`max_batch` must be {limit}, got {most}", fpp.export, model, path, max_batch=most, overwrite=True)
  (tmp_path / "precious").write_text("")
  refuses("is not an export in the format 'saved_model'", fpp.export, model, tmp_path, overwrite=True)

  def full_disk(module, directory, **_):
    pathlib.Path(directory, "saved_model.pb").write_text("half of")
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

  monkeypatch.setattr(tf.saved_model, "save", full_disk)
  refuses("cannot be written: .*No space left", fpp.export, model, path, overwrite=True)
  assert contents(path) == before
  assert [p.name for p in path.parent.iterdir()] == ["1"]
  # A new one takes its place only when it is whole.
  monkeypatch.setattr(
    tf.saved_model, "save", lambda module, directory, **_: pathlib.Path(directory, "saved_model.pb").write_text("new")
  )
  copy = tmp_path / "copy"
  fpp.export(model, copy)
  fpp.export(model, copy, overwrite=True)
  assert (copy / "saved_model.pb").read_text() == "new"


def test_bin_export_refuses_in_one_line(workdir, tmp_path):
  line = refusal("export", f"--workdir={workdir.path}", cwd=tmp_path)
  assert f"'{workdir.path}/saved_model/1' exists already" in line
  model = ["--preset=digits", "--format=preset", "--overwrite"]
  line = refusal("export", *model, "--output=./presets/digits", cwd=tmp_path)
  assert "--output=presets/digits holds the model itself, presets/digits" in line


@pytest.mark.slow
@pytest.mark.docs
def test_the_snippet_of_the_docs_runs(path):
  snippet, *_ = re.findall(r"```python\n(.*?)```", SERVING, re.DOTALL)
  scope = {}
  exec(compile(snippet.replace("runs/digits/saved_model/1", str(path)), "serving.md", "exec"), scope)
  assert scope["bits"]["bits_per_dim"].shape == (4,) and scope["metadata"]["max_batch"] == MAX_BATCH


def test_the_requests_of_the_docs_have_the_inputs_of_the_signatures(loaded):
  lines = re.findall(r"^    ((?:curl |image=|latents=).*)$", SERVING, re.MULTILINE)
  script = "\n".join(['curl() { echo "$2"; }', *lines])
  out = subprocess.run(["bash", "-c", script], text=True, capture_output=True, check=True).stdout
  requests = [json.loads(line) for line in out.splitlines()]
  assert {r["signature_name"] for r in requests} == {*loaded.signatures} - {"serving_default"}
  for request in requests:
    specs = loaded.signatures[request["signature_name"]].structured_input_signature[1]
    assert request["inputs"].keys() == specs.keys()
    for key, value in request["inputs"].items():
      assert tf.constant(value, specs[key].dtype).shape.rank == specs[key].shape.rank

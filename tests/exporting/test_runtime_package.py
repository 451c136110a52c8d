"""The package flowpp_runtime: the numbers of TensorFlow from an export, without TensorFlow, and bad calls."""

import errno
import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
from PIL import Image
import pytest
import scipy.stats

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from support.hostile_files import peak_of
from support.models import MINIMAL, perturb, perturbed, small_images
from support.programs import PACKAGES, ROOT, run

pytest.importorskip("onnx")
flowpp_runtime = pytest.importorskip("flowpp_runtime", exc_type=ImportError)  # needs onnxruntime
from flowpp_runtime import command  # noqa: E402

NATS = 1e-5  # per dimension


def exported(model, tmp_path_factory):
  """A model, and its export."""
  folder = tmp_path_factory.mktemp("exported") / "onnx"
  fpp.export(model, folder, "onnx")
  return model, folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  """The preset digits, and its export."""
  return exported(fpp.FlowPlusPlus.from_preset("digits"), tmp_path_factory)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
  """A small model with classes and a condition, and its export."""
  return exported(perturbed(num_classes=3, label_dropout=0.1, condition_shape=(2, 2, 1)), tmp_path_factory)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
  """A flow given a context, and its export."""
  flow = fpp.VectorFlow(event_size=5, context_size=3, couplings=2, hidden=8, df=4.0)
  return exported(perturb(flow), tmp_path_factory)


def test_bounds_latents_and_images_of_digits_are_those_of_tensorflow(digits):
  model, folder = digits
  runtime, images = flowpp_runtime.Model(folder), load_dataset("digits").test[:70]  # more than one batch
  noise = model.sample_noise([2, 70], seed=1).numpy()
  expected = model.log_prob_bound(images, num_samples=2, noise=noise).numpy()
  bound = runtime.log_prob(images, noise=noise, num_samples=2)
  np.testing.assert_allclose(bound / 64, expected / 64, atol=NATS)
  bits = runtime.position_bits(images, seed=0)
  np.testing.assert_allclose(bits.sum(axis=(1, 2, 3)) / 64, runtime.bits_per_dim(images, seed=0), atol=1e-5)
  latents = runtime.encode(images, noise=noise[0])
  np.testing.assert_array_equal(runtime.decode(latents), images)
  np.testing.assert_array_equal(model.decode(latents), images)
  assert (runtime.image_shape, runtime.levels, runtime.latent_shape) == ((8, 8, 1), 17, (4, 4, 4))
  bits = runtime.bits_per_dim(images, num_samples=2, seed=0)
  np.testing.assert_array_equal(bits, runtime.bits_per_dim(images, num_samples=2, seed=0))
  assert bits.dtype == np.float64 and abs(bits.mean() - model.to_bits_per_dim(expected).mean()) < 0.02
  samples = runtime.sample(3, temperature=0.8, seed=0)
  assert samples.shape == (3, 8, 8, 1) and samples.dtype == np.uint8 and samples.max() <= 16


def test_labels_condition_and_noise_are_passed(classes):
  model, folder = classes
  runtime, images = flowpp_runtime.Model(folder), small_images(5, model.config)
  given = dict(labels=np.array([-1, 0, 1, 2, 0]), condition=np.random.RandomState(0).randn(5, 2, 2, 1))
  noise = model.sample_noise([5], seed=0).numpy()
  expected = model.log_prob_bound(images, noise=noise, **given)
  np.testing.assert_allclose(runtime.log_prob(images, **given, noise=noise), expected, rtol=1e-5, atol=1e-3)
  (drawn,) = runtime._noises(None, 1, 2000, seed=0)
  assert drawn.shape[1:] == runtime.noise_shape and runtime.metadata["noise"] == "uniform"
  assert drawn.min() >= 0 and drawn.max() < 1 and abs(drawn.mean() - 0.5) < 0.05
  condition = given["condition"]
  samples = runtime.sample(5, seed=0, labels=1, condition=condition)
  np.testing.assert_array_equal(samples, runtime.sample(5, seed=0, labels=[1] * 5, condition=condition))


def test_a_number_of_samples_by_its_place_is_no_label(classes):
  """`FlowPlusPlus.bits_per_dim(images, 2)` is the bound of two samples, and must not be that of the class 2 here."""
  runtime, images = flowpp_runtime.Model(classes[1]), small_images(2, classes[0].config)
  for method in (runtime.log_prob, runtime.bits_per_dim, runtime.encode, runtime.position_bits):
    with pytest.raises(TypeError, match="positional argument"):
      method(images, 2)


def test_a_flow_of_vectors_is_that_of_tensorflow(vectors):
  flow, folder = vectors
  runtime, rng = flowpp_runtime.VectorFlow(folder), np.random.RandomState(0)
  context = rng.randn(4, 3).astype(np.float32)
  x = runtime.sample(4, context, seed=0)
  expected = flow.distribution.given(context).log_prob(x)
  np.testing.assert_allclose(runtime.log_prob(x, context), expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(runtime.decode(runtime.encode(x, context), context), x, atol=1e-4)
  np.testing.assert_array_equal(runtime.log_prob(x, context[0]), runtime.log_prob(x, np.tile(context[:1], (4, 1))))


def test_an_ensemble_draws_each_flow_as_often_as_its_weight_from_the_base_of_that_flow(tmp_path):
  flows = [fpp.vector_flow(1, couplings=1, components=1, hidden=4, df=df) for df in (None, 3.0, 1.0)]
  flow = fpp.ensemble([flows[0], fpp.ensemble(flows[1:])])
  fpp.export(flow, tmp_path / "onnx", "onnx")
  runtime = flowpp_runtime.VectorFlow(tmp_path / "onnx")
  x = runtime.sample(50_000, seed=0)
  np.testing.assert_array_equal(x, runtime.sample(50_000, seed=0))
  z = [np.asarray(one.bijector.inverse(np.sort(x[:, 0])[:, np.newaxis]))[:, 0] for one in flows]
  bases = [scipy.stats.norm, scipy.stats.t(3), scipy.stats.t(1)]
  cdf = np.average([base.cdf(values) for base, values in zip(bases, z)], axis=0, weights=[0.5, 0.25, 0.25])
  assert np.max(np.abs(cdf - np.arange(50_000) / 50_000)) < np.sqrt(-0.5 * np.log(1e-6 / 2) / 50_000)
  np.testing.assert_allclose(runtime.log_prob(x[:100]), flow.log_prob(x[:100]), rtol=1e-4, atol=1e-4)
  for call in (lambda: runtime.encode(x), lambda: runtime.decode(x)):
    with pytest.raises(ValueError, match="^`(encode|decode)` must be of one flow: an ensemble has no latents, only"):
      call()
  copy = shutil.copytree(tmp_path / "onnx", tmp_path / "copy")
  about = json.loads((copy / "metadata.json").read_text())
  for weights in ([0.5, 0.5, 0.5], [1.5, -0.5, 0.0]):
    members = [{**one, "weight": weight} for one, weight in zip(about["members"], weights)]
    (copy / "metadata.json").write_text(json.dumps({**about, "members": members}))
    with pytest.raises(ValueError, match="is not right: ValueError its `members` have the weights"):
      flowpp_runtime.VectorFlow(copy)
  (copy / "metadata.json").write_text(json.dumps({**about, "members": about["members"][::-1]}))
  with pytest.raises(ValueError, match=r"^metadata\.json does not fit '.*`members` must be "):
    flowpp_runtime.VectorFlow(copy).sample(2)


@pytest.mark.parametrize("members", [1, 2])
def test_a_context_that_a_network_reads_has_its_shape(members, tmp_path):
  flows = []
  for _ in range(members):
    network = keras.Sequential([keras.Input([4, 2]), keras.layers.Flatten(), keras.layers.Dense(3)])
    support = fpp.support.simplex()
    flows.append(fpp.vector_flow(3, couplings=1, hidden=4, embedding=network, support=support))
  flow = fpp.ensemble(flows) if members > 1 else flows[0]
  fpp.export(flow, tmp_path / "onnx", "onnx")
  runtime, rng = flowpp_runtime.VectorFlow(tmp_path / "onnx"), np.random.RandomState(0)
  context = rng.randn(5, 4, 2).astype(np.float32)
  x = runtime.sample(5, context, seed=0)
  assert runtime.context_shape == (4, 2) and x.shape == (5, 3)
  np.testing.assert_allclose(x.sum(axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(runtime.log_prob(x, context), flow.given(context).log_prob(x), rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(runtime.log_prob(x, context[0]), runtime.log_prob(x, context[:1]))
  assert runtime.sample(9, context[1]).shape == (9, 3)
  for given, message in [
    (None, "`context` must be given, of shape [5, 4, 2], or one row for all"),
    (context[:3], "`context` must have shape [5, 4, 2], got [3, 4, 2]"),
    (context[0, 0], "`context` must have shape [5, 4, 2], got [5, 2]"),
  ]:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
      runtime.log_prob(x, given)
  if members == 1:
    latents = runtime.encode(x, context)
    assert latents.shape == (5, 2)
    np.testing.assert_allclose(runtime.decode(latents, context), x, rtol=1e-4)


def test_the_command_draws_and_scores_where_nothing_else_is_installed(digits, tmp_path):
  """Only NumPy, ONNX Runtime and what it needs can be imported."""
  blocked = ("tensorflow", "keras", "tensorflow_probability", "flowpp_tf", "onnx", "PIL", "h5py", "absl", "scipy")
  code = (
    f"import sys\nfor name in {blocked}: sys.modules[name] = None\nfrom flowpp_runtime.command import main\n"
    "assert not main(['sample', sys.argv[1], '--n=10', '--seed=3', '--output=a.npy'])\n"
    "assert not main(['sample', sys.argv[1], '--n=10', '--seed=3', '--output=a.png'])\n"
    "assert not main(['score', sys.argv[1], 'a.npy', '--num_samples=2'])\n"
  )
  wrote, also, *bits = run(["-c", code], digits[1], cwd=tmp_path, PYTHONPATH=PACKAGES).ok().out.splitlines()
  assert (wrote, also) == ("wrote a.npy", "wrote a.png") and len(bits) == 10 and 0 < float(bits[0]) < 10
  images, picture = np.load(tmp_path / "a.npy"), np.asarray(Image.open(tmp_path / "a.png"))
  assert picture.shape == (24, 32)  # four columns
  np.testing.assert_array_equal(picture[:8, 8:16], np.round(images[1, ..., 0] * (255 / 16)))


def test_a_name_that_the_terminal_cannot_show_is_no_failure(digits, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
  assert command.main(["sample", str(digits[1]), "--n=1", "--output=\u00fc.png"]) == 0
  sys.stdout.flush()
  assert sys.stdout.buffer.getvalue() == b"wrote \\xfc.png\n" and (tmp_path / "\u00fc.png").exists()


def test_an_output_that_cannot_be_written_is_one_line_and_leaves_what_was_there(digits, tmp_path, capsys, monkeypatch):
  def full_disk(path, content):
    with open(path, "wb") as file:
      file.write(content[:9])
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
  for name in ("a.npy", "a.png"):
    (tmp_path / name).write_text("old")
    line = refusal(capsys, "sample", digits[1], "--n=1", f"--output={tmp_path / name}")
    assert line == f"flowpp-runtime: error: '{tmp_path / name}' cannot be written: No space left on device"
    assert (tmp_path / name).read_text() == "old"
  assert len([*tmp_path.iterdir()]) == 2


def refusal(captured, *arguments):
  """The one line by which the command refuses its input."""
  assert command.main([*map(str, arguments)]) == 2
  (line,) = captured.readouterr().err.splitlines()
  return line


@pytest.mark.parametrize(
  "flag, message",
  [("--n=1000000000000", "Unable to allocate"), ("--temperature=1e300", "`temperature` must be finite and at least 0")],
)
def test_what_no_memory_and_no_float32_can_hold_is_one_line(flag, message, digits, capfd):
  assert refusal(capfd, "sample", digits[1], flag, "--output=a.png").startswith(f"flowpp-runtime: error: {message}")


def test_output_that_nobody_can_take_is_one_line(digits, tmp_path):
  np.save(tmp_path / "a.npy", np.zeros([2, 8, 8, 1], np.uint8))
  score = [sys.executable, "-m", "flowpp_runtime.command", "score", digits[1], tmp_path / "a.npy"]
  environment = {**os.environ, "PYTHONPATH": PACKAGES}
  with open("/dev/full", "w") as full:
    out = subprocess.run(score, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
  line = "flowpp-runtime: error: standard output cannot be written: No space left on device\n"
  assert (out.returncode, out.stderr) == (2, line)
  end, begin = os.pipe()
  os.close(end)  # nobody reads
  out = subprocess.run(score, stdout=begin, stderr=subprocess.PIPE, text=True, env=environment)
  os.close(begin)
  assert (out.returncode, out.stderr) == (141, "")


def test_ctrl_c_is_one_line(digits, capsys, monkeypatch):
  monkeypatch.setattr(flowpp_runtime.Model, "sample", mock.Mock(side_effect=KeyboardInterrupt))
  assert command.main(["sample", str(digits[1])]) == 130
  assert capsys.readouterr().err == "flowpp-runtime: stopped by Ctrl-C\n"


def test_files_that_are_no_array_are_one_line(digits, tmp_path, capsys):
  header = "{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000, 8, 8, 1), }".ljust(117) + "\n"
  (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
  (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
  (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00\x0f\x00{'descr': '<i8'\n")  # NumPy has an error for it
  (tmp_path / "empty.npy").touch()
  np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
  for name, message in (
    ("huge.npy", "must be an .npy file that fits into memory: Unable to allocate"),
    ("zip.npy", "zip.npy' must be an .npy file"),
    ("cut.npy", "cut.npy' must be an .npy file"),
    ("empty.npy", "empty.npy' must be an .npy file"),
    ("two.npz", "two.npz' must be an .npy file"),
    ("none.npy", "No such file"),
  ):
    line = refusal(capsys, "score", digits[1], tmp_path / name)
    assert line.startswith("flowpp-runtime: error: ") and message in line


def test_the_example_of_the_docs_runs(digits, tmp_path, monkeypatch):
  shutil.copytree(digits[1], tmp_path / "runs" / "digits" / "onnx")
  monkeypatch.chdir(tmp_path)
  page = (ROOT / "docs" / "serving.md").read_text().partition("## In NumPy")[2]
  exec(compile(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], "serving.md", "exec"), {})


def test_a_picture_in_colours_is_a_png():
  picture = np.random.RandomState(0).randint(0, 256, [3, 5, 3]).astype(np.uint8)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(command.png(picture)))), picture)


def test_its_version_is_that_of_the_library():
  assert flowpp_runtime.__version__ == fpp.__version__


DIGIT = np.zeros([2, 8, 8, 1], int)
LATENTS = np.zeros([2, 4, 4, 4])


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda m: m.log_prob(DIGIT + 17), "`images` must lie in 0 .. 16, got values from 17 to 17"),
    (lambda m: m.log_prob(DIGIT - 1), "`images` must lie in 0 .. 16, got values from -1 to -1"),
    (lambda m: m.log_prob(DIGIT + 0.5), "`images` must be integers in 0 .. 16, got float64"),
    (lambda m: m.log_prob(DIGIT[0]), "`images` must have shape [N, 8, 8, 1], got [8, 8, 1]"),
    (lambda m: m.log_prob(DIGIT[:0]), "`images` must have shape [N, 8, 8, 1], got [0, 8, 8, 1]"),
    (lambda m: m.log_prob([[1], [1, 2]]), "`images` must be an array of integers, got a ragged list"),
    (lambda m: m.log_prob(DIGIT, labels=[0, 1]), "`labels` must be None: the model has no classes"),
    (lambda m: m.log_prob(DIGIT, condition=DIGIT), "`condition` must be None: the model has no condition"),
    (lambda m: m.log_prob(DIGIT, num_samples=0), "`num_samples` must be an integer from 1 to 2147483647, got 0"),
    (lambda m: m.log_prob(DIGIT, seed=-1), "`seed` must be an integer from 0 to 9223372036854775807, got -1"),
    (lambda m: m.encode(DIGIT, noise=LATENTS), "`noise` must have shape [1, 2, 8, 8, 1], got [1, 2, 4, 4, 4]"),
    (lambda m: m.encode(DIGIT, noise="noise"), "`noise` must be an array of numbers, got <U5"),
    (lambda m: m.encode(DIGIT, noise=DIGIT * 1j), "`noise` must be an array of numbers, got complex128"),
    (lambda m: m.encode(DIGIT, noise=DIGIT.astype(str)), "`noise` must be an array of numbers, got <U21"),
    (lambda m: m.decode([[1], [1, 2]]), "`latents` must be an array of numbers, got a ragged list"),
    (lambda m: m.decode(LATENTS + 1e300), "`latents` must be finite, got 128 values that are not"),
    (lambda m: m.decode(LATENTS[..., 1:]), "`latents` must have shape [N, 4, 4, 4], got [2, 4, 4, 3]"),
    (lambda m: m.decode(LATENTS * np.nan), "`latents` must be finite, got 128 values that are not"),
    (lambda m: m.decode(LATENTS + 3e38), "`latents` must be such as the model can decode, got 2 that become no image"),
    (lambda m: m.decode("latents"), "`latents` must be an array of numbers, got str"),
    (lambda m: m.sample(2.5), "`n` must be an integer from 1 to 9223372036854775807, got 2.5"),
    (lambda m: m.sample(2, temperature=-1), "`temperature` must be finite and at least 0, got -1"),
    (lambda m: m.sample(2, seed="0"), "`seed` must be an integer from 0 to 9223372036854775807, got '0'"),
  ],
)
def test_what_does_not_fit_the_model_is_one_line(call, message, digits):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    call(flowpp_runtime.Model(digits[1]))


def test_what_does_not_fit_its_classes_condition_or_context_is_one_line(classes, vectors):
  model, flow = flowpp_runtime.Model(classes[1]), flowpp_runtime.VectorFlow(vectors[1])
  images = small_images(2, MINIMAL)
  condition, x, noise = np.zeros([2, 2, 2, 1]), np.zeros([2, 5]), np.full([2, *model.noise_shape], 0.5)
  noise[0, 0, 0], noise[1, 0, 0] = 1, -1
  for call, message in [
    (lambda: model.log_prob(images), "`labels` must be integers of shape [2], or one for all, got None"),
    (lambda: model.log_prob(images, labels=[0, 3]), "`labels` must lie in -1 .. 2, got values from 0 to 3"),
    (
      lambda: model.log_prob(images, labels=[0.0, 1.0]),
      "`labels` must be integers of shape [2], or one for all, got float64",
    ),
    (lambda: model.log_prob(images, labels=0), "`condition` must be given, of shape [2, 2, 2, 1]"),
    (
      lambda: model.log_prob(images, labels=0, condition=condition[:1]),
      "`condition` must have shape [2, 2, 2, 1], got [1, 2, 2, 1]",
    ),
    (
      lambda: model.encode(images, labels=0, condition=condition, noise=noise),
      "`noise` that is uniform must be from 0 to below 1",
    ),
    (lambda: flow.log_prob(x + 1j, np.zeros(3)), "`x` must be an array of numbers, got complex128"),
    (lambda: flow.log_prob(x, ["a"]), "`context` must be an array of numbers, got <U1"),
    (lambda: flow.log_prob(x), "`context` must be given, of shape [2, 3], or one row for all"),
    (lambda: flow.log_prob(x, np.zeros([3, 3])), "`context` must have shape [2, 3], got [3, 3]"),
    (lambda: flow.log_prob(x[0], np.zeros(3)), "`x` must have shape [N, 5], got [5]"),
    (lambda: flow.sample(0, np.zeros(3)), "`n` must be an integer from 1 to 9223372036854775807, got 0"),
    (
      lambda: flow.decode(np.full([2, 5], 3e38), np.zeros(3)),
      "`latents` must be such as the flow can decode, got 2 that become no vector",
    ),
  ]:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
      call()


def test_other_directories_and_damage_are_one_line(digits, vectors, tmp_path, capsys):
  for path, message in [
    (tmp_path / "none", "is no export: it has no metadata.json"),
    (vectors[1], "must be an export of a model of images; its metadata.json has no `image_shape`"),
  ]:
    with pytest.raises(ValueError, match=message):
      flowpp_runtime.Model(path)
  with pytest.raises(ValueError, match="must be an export of a flow of vectors"):
    flowpp_runtime.VectorFlow(digits[1])
  shapes = {"event_shape": [8, 8, 1], "latent_shape": [4, 4, 4], "context_shape": None}
  fields = {"format": "onnx", "sha256": {}, "base": "normal", **shapes}  # of an `fpp.image_flow`
  (tmp_path / "fields").mkdir()
  (tmp_path / "fields" / "metadata.json").write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=r"of a flow of vectors, got one of events of shape \[8, 8, 1\]"):
    flowpp_runtime.VectorFlow(tmp_path / "fields")
  copy = shutil.copytree(digits[1], tmp_path / "onnx")
  (copy / "decode.onnx").write_bytes((copy / "decode.onnx").read_bytes()[:-1])
  line = refusal(capsys, "sample", copy, f"--output={tmp_path / 'a.png'}")
  assert re.match("flowpp-runtime: error: '.*decode.onnx' is damaged: it does not have the SHA-256 ", line)
  about = json.loads((copy / "metadata.json").read_text())
  for change, message in [
    ({"format": "tflite"}, "must be an export in the format onnx, got 'tflite'"),
    ({"noise": "cauchy"}, "is not right: ValueError its `noise` is 'cauchy'"),
    ({"noise": ["normal"]}, r"is not right: ValueError its `noise` is \['normal'\]"),
    ({"image_shape": ["a"]}, "is not right: ValueError"),
    ({"sha256": None}, "cannot be read: AttributeError"),
    ({"levels": math.inf}, "cannot be read: ValueError Infinity is not a number of JSON"),
    ({"more": [math.nan]}, "cannot be read: ValueError NaN is not a number of JSON"),
    ({"levels": 10**9}, "is not right: ValueError `levels` must be an integer from 2 to 256, got 1000000000"),
    ({"levels": 1}, "is not right: ValueError `levels` must be an integer from 2 to 256, got 1"),
    ({"num_classes": True}, "is not right: ValueError `num_classes` must be an integer from 0 to 2147483647, got True"),
    ({"image_shape": "888"}, "is not right: ValueError `image_shape` must be an integer from 1 to 2147483647, got '8'"),
    (
      {"latent_shape": [10**30]},
      "is not right: ValueError `latent_shape` must be an integer from 1 to 2147483647, got 10000",
    ),
  ]:
    (copy / "metadata.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(ValueError, match=message):
      flowpp_runtime.Model(copy)
  shutil.copy(digits[1] / "decode.onnx", copy)
  (copy / "metadata.json").write_text(json.dumps({**about, "latent_shape": [4, 4, 3]}))  # not that of the graph
  line = refusal(capsys, "sample", copy, f"--output={tmp_path / 'a.png'}").removeprefix("flowpp-runtime: error: ")
  message = "metadata.json does not fit '.*decode.onnx': `latent_shape` must be .4, 4, 4., got .4, 4, 3."
  assert re.fullmatch(message, line)


HUGE = 2**31 - 1


@pytest.mark.parametrize(
  "change",
  [
    {"latent_shape": [4, 4, 10**6]},
    {"latent_shape": [HUGE, HUGE, HUGE]},
    {"noise_shape": [8, 8, 10**7]},
    {"noise_shape": [HUGE]},
    {"noise": "uniform"},
    {"noise_shape": [8, 8, 2]},
    {"levels": 16},
    {"levels": 256},
    {"image_shape": [8, 8, 2]},
    {"num_classes": 10},
    {"num_classes": HUGE, "lowest_label": -1},
    {"condition_shape": [10**6, 10**6, 3]},
  ],
)
def test_metadata_that_do_not_fit_the_graph_are_refused_before_arrays_are_made(change, digits, tmp_path):
  copy = shutil.copytree(digits[1], tmp_path / "onnx")
  about = json.loads((copy / "metadata.json").read_text())
  (copy / "metadata.json").write_text(json.dumps({**about, **change}))
  model = flowpp_runtime.Model(copy)
  images = np.zeros([2, *model.image_shape], np.uint8)
  given = dict(labels=0 if model.num_classes else None)
  for call in (lambda: model.sample(2, **given), lambda: model.bits_per_dim(images, **given)):
    line = f"^metadata.json does not fit '.*onnx': `({'|'.join(change)})` must be .*$"
    assert peak_of(lambda: pytest.raises(ValueError, call).match(line)) < 50e6  # noqa: B023


def test_a_flow_of_vectors_that_metadata_describe_wrongly_is_refused(vectors, tmp_path):
  copy = shutil.copytree(vectors[1], tmp_path / "onnx")
  about = json.loads((copy / "metadata.json").read_text())
  for change in ({"event_shape": [10**9]}, {"context_shape": [10**9]}, {"context_shape": None}, {"base": "normal"}):
    (copy / "metadata.json").write_text(json.dumps({**about, **change}))
    flow = flowpp_runtime.VectorFlow(copy)
    line = rf"^metadata\.json does not fit '.*`{[*change][0]}` must be "
    for call in (
      lambda: flow.sample(9),
      lambda: flow.log_prob(np.zeros([2, 5])),
      lambda: flow.decode(np.zeros([2, 5])),
    ):
      assert peak_of(lambda: pytest.raises(ValueError, call).match(line)) < 50e6  # noqa: B023
  for text in ("-1", "1e999", "0", "NaN"):
    (copy / "metadata.json").write_text(json.dumps({**about, "base": {"student_t": "DF"}}).replace('"DF"', text))
    with pytest.raises(ValueError, match="its `base` is|NaN is not a number of JSON"):
      flowpp_runtime.VectorFlow(copy)


def test_a_graph_that_does_not_say_what_it_computes_is_refused(digits, tmp_path):
  import onnx

  copy = shutil.copytree(digits[1], tmp_path / "onnx")
  about = json.loads((copy / "metadata.json").read_text())
  graph = onnx.load(copy / "decode.onnx")
  for properties, message in [
    ({}, "does not say what it computes: export it again"),
    ({"metadata": "[1]"}, "does not say what it computes: export it again"),
    ({"metadata": json.dumps({})}, r"the inputs must be {'latents': \(4, 4, 4\)}, got {'latents': \(4, 4, 5\)}"),
  ]:
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, properties)
    data = graph.SerializeToString()
    (copy / "decode.onnx").write_bytes(data)
    digests = {**about["sha256"], "decode.onnx": hashlib.sha256(data).hexdigest()}
    shape = {"latent_shape": [4, 4, 5]} if properties == {"metadata": "{}"} else {}
    (copy / "metadata.json").write_text(json.dumps({**about, "sha256": digests, **shape}))
    with pytest.raises(ValueError, match=message):
      flowpp_runtime.Model(copy).sample(2)

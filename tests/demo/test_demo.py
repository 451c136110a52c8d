"""The page of bin/demo: its functions, and all of it in a browser."""

import base64
import concurrent.futures
import contextlib
import copy
import dataclasses
import http.client
import io
import json
import pathlib
import re
import shutil
import signal
import socket
import types
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
from PIL import Image, ImageSequence
import pytest

import flowpp_tf as fpp
from flowpp_tf import evaluation
from flowpp_tf.core.errors import InputError
from flowpp_tf.data import load_dataset
from flowpp_tf.demo.answers import DemoHandlers, _fitted, archive_html, read_upload
from flowpp_tf.demo.card import ModelCard, about, provenance, summary
from flowpp_tf.demo.charts import curve, histogram
from flowpp_tf.demo.engine import Engine, KnownImages, SavedModelEngine
from flowpp_tf.io import budget
from flowpp_tf.io.budget import Budget
from flowpp_tf.programs import demo as programs_demo
from flowpp_tf.training import Workdir
from support.marks import slow
from support.models import SMALL, perturbed, small_config, small_images
from support.programs import LIMIT, ROOT, call, free_addresses, refusal, run, served, wait_for
from support.refusing import refuses
from support.summary import need
from support.training_steps import stored_run

CONFIG = small_config(  # short: every function of it is traced, by the program too
  SMALL, image_shape=(4, 4, 1), structure="columns:1", dequant_structure="columns:1", attention=False
)
NAN = float("nan")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A finished run, whose data are gone."""
  return stored_run(tmp_path_factory.mktemp("run"), perturbed(CONFIG, 0.3), dataset="folder:/nowhere")


@pytest.fixture(scope="module")
def model(workdir):
  return workdir.load()[0]


@pytest.fixture(scope="module")
def batched(model):
  return evaluation.BatchedModel(model, 100)


@pytest.fixture(scope="module")
def answers(model, tmp_path_factory):
  images = small_images(12, CONFIG)
  known = KnownImages(images[:8], images[8:])
  return DemoHandlers(Engine(model, 3, 2.0, known), tmp_path_factory.mktemp("page"), "--preset=mine")


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
  """A folder of files of all kinds, good ones and others."""
  folder = tmp_path_factory.mktemp("uploads")
  rng = np.random.RandomState(0)
  pixels = rng.randint(0, 256, [20, 30, 3]).astype(np.uint8)
  Image.fromarray(pixels).save(folder / "good.png")
  Image.fromarray(pixels[::-1]).save(folder / "other.jpg")
  Image.fromarray(pixels.astype(np.uint16)[..., 2] * 257).save(folder / "sixteen.png")
  frames = [Image.fromarray(pixels[..., i]) for i in range(3)]
  frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
  (folder / "text.png").write_text("no image\n")
  (folder / "empty.png").write_bytes(b"")
  Image.new("L", (10_000, 5_000), 255).save(folder / "large.png")
  Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
  return folder


# --- What is uploaded -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good.png", "other.jpg", "sixteen.png", "film.gif", "large.png"])
def test_images_of_all_kinds_are_fitted(uploads, name):
  image = read_upload(uploads / name, CONFIG)
  assert image.shape == (4, 4, 1) and image.dtype == np.uint8 and image.max() <= 7
  if name == "large.png":
    assert image.min() == 7


@pytest.mark.parametrize(
  "name, message",
  [
    ("text.png", "'text.png' is not an image: expected one of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
    ("bomb.png", r"'bomb.png': .* 67,108,864 (pixels that )?are decoded \(--max_pixels raises the limit\)"),
  ],
)
def test_other_files_are_refused_with_a_line_that_says_why(uploads, name, message):
  refuses(message, read_upload, uploads / name, CONFIG)


def test_too_many_pixels_are_refused_unread(uploads):
  message = "'large.png': an image of 10000x5000 has 50,000,000 pixels; at most 40,000,000 are decoded"
  with budget.use(Budget(pixels=40_000_000)), pytest.raises(InputError, match=message):
    read_upload(uploads / "large.png", CONFIG)


# --- Answers --------------------------------------------------------------------------------------


def test_samples_are_those_of_bin_sample(answers, batched):
  images = batched.sample(6, 0.7, seed=3)
  expected = evaluation.image_grid(images, 8)
  np.testing.assert_array_equal(answers.samples(6, 0.7, 3.0), expected)
  assert np.any(np.asarray(answers.samples(6, 0.7, 4)) != expected)


def test_interpolation_has_the_uploads_at_its_ends(answers, uploads):
  grid, animation, film, text = answers.interpolation(uploads / "good.png", uploads / "other.jpg", 5)
  first, last = (read_upload(uploads / name, CONFIG) for name in ("good.png", "other.jpg"))
  ends = evaluation.to_shades(np.stack([first, last]), 8)[..., 0]
  scale = grid.width // 24  # five images of 4 pixels and the gaps
  pixels = np.asarray(grid)[::scale, ::scale]
  differ = int(re.fullmatch(r"Both ends as decoded: (\d) of 32 pixel values differ.*", text)[1])
  assert np.count_nonzero(np.stack([pixels[:, :4], pixels[:, 20:]]) != ends) == differ
  assert _milliseconds(animation) == 2 * 500 + 6 * 100
  assert "data-frames='5'" in film
  with Image.open(io.BytesIO(_embedded(film)[0])) as strip:
    assert strip.size == (4, 5 * 4)
    np.testing.assert_array_equal(np.asarray(strip)[:4], evaluation.to_shades(first, 8)[..., 0])


def _embedded(html):
  """The pictures in HTML, as PNG."""
  return [base64.b64decode(text) for text in re.findall("data:image/png;base64,([^']*)", html)]


def _milliseconds(file):
  """How long an animation is; frames that are the same are one in it, and last longer."""
  with Image.open(file) as film:
    return sum(frame.info["duration"] for frame in ImageSequence.Iterator(film))


def test_scores_are_those_of_bin_score(answers, uploads, model):
  seen, decoded, difference, text = answers.score(uploads / "good.png")
  image = read_upload(uploads / "good.png", CONFIG)
  scores = evaluation.Scorer(model, 3, typical=2.0)(image[np.newaxis])
  for name, form in (
    ("bits_per_dim", ".4f"),
    ("log_likelihood", ".2f"),
    ("complexity_corrected", ".4f"),
    ("typicality", ".4f"),
  ):
    assert f" {scores[name][0]:{form}} |" in text
  assert "bound of 3 samples" in text and "30x20 pixels and was fitted to 4x4" in text
  assert "Likelihood does not say whether an image is like those of training" in text
  np.testing.assert_array_equal(seen, evaluation.image_grid(image[np.newaxis], 8))
  assert seen.size == decoded.size == difference.size
  assert "16 bits" not in text
  of_sixteen = answers.score(uploads / "sixteen.png")[-1]
  assert "has 16 bits, of which a model of at most 256 levels gets the upper 8." in of_sixteen


def test_the_wall_has_the_same_latents_at_each_temperature(answers, batched):
  for temperature, picture in zip((0.7, 0.85, 1.0), answers.wall(5), strict=True):
    images = batched.sample(16, temperature, seed=5)
    np.testing.assert_array_equal(picture, evaluation.image_grid(images, 8))


def test_an_upload_is_explained_by_figures_that_add_up(answers, uploads):
  text = answers.explain(uploads / "good.png")
  image = read_upload(uploads / "good.png", CONFIG)
  bits, per_dim = re.search(
    r"([\d.]+) bits or ([\d.]+) bits/dim, is the importance-weighted bound of 3 samples", text
  ).groups()
  assert float(per_dim) == pytest.approx(answers.engine.scores(image[np.newaxis])["bits_per_dim"][0], abs=2e-4)
  of_terms = [float(value) for value in re.findall(r"bits a position, ([-\d.]+) in all</figcaption>", text)]
  assert of_terms[0] == pytest.approx(sum(of_terms[1:]), abs=0.2) == pytest.approx(float(bits), abs=0.1)
  single = answers.engine.bound(np.concatenate([image[np.newaxis], answers.engine.known.test]))
  assert f"<b>{single[0]:.3f}</b> bits/dim: more than {np.sum(single[1:] < single[0])} of 4 test images" in text
  heat, *_, nearest = _embedded(text)
  with Image.open(io.BytesIO(heat)) as picture:
    assert picture.size == (4, 4)
  distances = np.linalg.norm(answers.engine.known.train.reshape(8, -1).astype(float) - image.ravel(), axis=1)
  assert f"alt='{np.sort(distances)[0] / 4:.2f}'" in text and "among 8 training images" in text


def test_a_part_that_fails_is_a_line_and_the_others_are_there(answers, uploads, tmp_path):
  engine = copy.copy(answers.engine)
  engine.known = KnownImages()
  text = DemoHandlers(engine, tmp_path).explain(uploads / "good.png")
  assert text.count("Not shown: ") == 1 and "Not shown: the training images are not on this machine" in text
  assert "bits/dim, is the importance-weighted bound" in text


def test_an_archive_of_the_page_is_read_by_bin_decompress(answers, uploads, workdir, tmp_path):
  path, text = answers.compress(uploads / "good.png")
  assert "bin/decompress image.fpp --preset=mine --output=image.npy" in text
  assert "as the model sees it. The file has 30x20 pixels and was fitted to 4x4." in text
  call("decompress", path, f"--workdir={workdir.path}", "--output=image.npy", cwd=tmp_path).ok()
  np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), [read_upload(uploads / "good.png", CONFIG)])
  assert "this archive</span>" in text and f"<span>{pathlib.Path(path).stat().st_size} bytes</span>" in text


def test_an_archive_below_the_bound_is_said_to_be_packed():
  image = np.zeros([8, 8, 1], np.uint8)
  assert "12 bytes more than the bound" in archive_html(image, 112, 100.0, "image.fpp", "--preset=digits", "")
  assert "packed by LZMA" in archive_html(image, 88, 100.0, "image.fpp", "--preset=digits", "")


@pytest.mark.slow
def test_a_model_with_classes_has_names_probabilities_and_guidance(uploads, tmp_path):
  model = perturbed(CONFIG, 0.3, num_classes=3, label_dropout=0.1)
  engine = Engine(model, 2, known=KnownImages(classes=("cat", "a<b", "dog")))
  answers = DemoHandlers(engine, tmp_path)
  labels = np.array([1, 1, 1, 1])
  guided = model.sample(4, 0.7, seed=3, labels=labels, guidance=1.5)
  np.testing.assert_array_equal(answers.samples(4, 0.7, 3, 1, 1.5), evaluation.image_grid(guided.numpy(), 8))
  text = answers.explain(uploads / "good.png")
  image = read_upload(uploads / "good.png", CONFIG)[np.newaxis]
  bounds = evaluation.Scorer(model, 2).class_log_likelihoods(image)[0, :3]
  shares = np.exp(bounds) / np.exp(bounds).sum()
  for name, share in zip(("cat", "a&lt;b", "dog"), shares, strict=True):
    assert f"<span>{name}</span>" in text and f"{100 * share:.1f} %" in text
  assert f"given class {('cat', 'a&lt;b', 'dog')[shares.argmax()]}." in text
  refuses("the guidance must be from 0 to 4.0, got nan", answers.samples, 4, 1, 0, 1, NAN)
  refuses("the class must be from 0 to 2, got 3", answers.wall, 0, 3)


def test_no_function_is_traced_twice(answers, uploads):
  batched, scorer = answers.engine.encode.__self__, answers.engine.scores
  for n, name in ((1, "good.png"), (9, "film.gif")):
    answers.samples(n, 1, n)
    answers.score(uploads / name)
    answers.interpolation(uploads / name, uploads / "good.png", 2 + n)
    answers.explain(uploads / name)
  for function in (batched._encode, batched._decode, scorer._bound, answers.engine._positions._terms):
    assert function._run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((10**9, 1, 0), "the number of images must be from 1 to 100, got 1000000000"),
    ((0, 1, 0), "number of images"),
    ((NAN, 1, 0), "number of images .* got nan"),
    ((2.5, 1, 0), "must be a whole number, got 2.5"),
    ((None, 1, 0), "got nothing"),
    (("9" * 1000, 1, 0), r"got 9{40}\.\.\.$"),
    (([1], 1, 0), "number of images"),
    ((4, -1, 0), "the temperature must be from 0 to 2.0, got -1"),
    ((4, NAN, 0), "temperature .* got nan"),
    ((4, float("inf"), 0), "temperature .* got inf"),
    ((4, True, 0), "temperature .* got True"),
    ((4, 1, -1), "seed"),
    ((4, 1, 10**30), "seed"),
    ((4, 1, None), "seed"),
  ],
)
def test_absurd_numbers_are_refused(answers, arguments, message):
  refuses(message, answers.samples, *arguments)


def test_what_is_missing_is_said(answers, uploads):
  refuses("there is no image yet", answers.interpolation, uploads / "good.png", None, 4)
  with pytest.raises(InputError, match="the number of frames must be from 2 to 32, got 1"):
    answers.interpolation(uploads / "good.png", uploads / "good.png", 1)


@pytest.mark.needs("gradio")
@pytest.mark.parametrize("levels, channels", [(17, 1), (1024, 1), (1024, 3)])
def test_examples_are_files_that_the_model_reads(levels, channels, tmp_path):
  from flowpp_tf.demo.page import _write_examples

  config = types.SimpleNamespace(image_shape=(4, 4, channels), levels=levels, pixel_levels=levels)
  image = np.random.RandomState(0).randint(0, levels, [4, 4, channels]).astype(np.uint8 if levels < 256 else np.uint16)
  handlers = types.SimpleNamespace(folder=tmp_path, engine=types.SimpleNamespace(config=config))
  ((label, path, picture), (_, other, _)) = _write_examples(
    {"test 0": image, f"{'dog ' * 99} (test 1)": image}, handlers
  )
  assert other != path
  np.testing.assert_array_equal(read_upload(path, config), image)
  assert _fitted(path, config) == "" and label == "test 0"
  assert np.asarray(Image.open(picture)).dtype == np.uint8


def test_metadata_of_a_saved_model_that_the_page_cannot_show_are_one_line(monkeypatch):
  loaded = types.SimpleNamespace(
    config=CONFIG, metadata={"data": "noise", "max_batch": 6}, saved_model=types.SimpleNamespace(weights=())
  )
  monkeypatch.setattr("flowpp_tf.exporting.load_saved_model", lambda path: loaded)
  with pytest.raises(InputError, match="^'exported/1' cannot be read: .*; expected the metadata that bin/export"):
    programs_demo._from_saved_model("exported/1", 2)


@pytest.mark.slow
def test_a_saved_model_gives_the_same_answers(answers, model, uploads, tmp_path):
  fpp.export(model, tmp_path / "1", max_batch=6)
  loaded = fpp.load_saved_model(tmp_path / "1")
  engine = SavedModelEngine(loaded, num_samples=3)
  assert engine.parameters == answers.engine.parameters == model.count_params()
  saved = DemoHandlers(engine, tmp_path)
  np.testing.assert_array_equal(saved.samples(6, 0.7, 3), answers.samples(6, 0.7, 3))
  ends = uploads / "good.png", uploads / "other.jpg"
  np.testing.assert_array_equal(saved.interpolation(*ends, 9)[0], answers.interpolation(*ends, 9)[0])
  assert "Typicality" not in saved.score(ends[0])[-1] and "Bits/dim" in saved.score(ends[0])[-1]
  refuses("the number of images must be from 1 to 6, got 7", saved.samples, 7, 1, 0)
  refuses("`num_samples` must be from 1 to 6, the `max_batch` .* got 16", SavedModelEngine, loaded)
  loaded.metadata["max_batch"] = 1  # as of an export that takes one image: both ends of a walk are encoded all the same
  one = DemoHandlers(SavedModelEngine(loaded, num_samples=1), tmp_path)
  assert "0 of 32 pixel values differ" in one.interpolation(*ends, 4)[-1]


def test_the_top_of_the_page_says_what_was_measured(answers):
  count = f"{answers.engine.parameters:,}"
  assert about("a", answers.engine, {}) == (
    f"`a`, {count} parameters  \nTrained on images of 4x4x1, 8 levels; which is not recorded  \n"
    "Its bits/dim have not been measured"
  )
  data = {
    "name": "noise",
    "version": "",
    "splits": {"train": 7, "validation": 1, "test": 2},
    "levels": 8,
    "image_shape": [4, 4, 1],
    "digest": "0f",
  }
  bounds = [{"num_samples": n, "bits_per_dim": bits} for n, bits in ((1, 2.5), (4, 2.45), (16, 2.4375))]
  evaluation = {"train": {"images": 2, "bounds": bounds[:1]}, "test": {"images": 2, "bounds": bounds}}
  text = about("a", answers.engine, {"data": data, "evaluation": evaluation})
  assert text.endswith(
    "Trained on noise, 7 / 1 / 2 images of 4x4x1, 8 levels (data 0f)  \n"
    "Bits/dim of 2 test images: 2.438 importance-weighted, 16 samples; 2.500 single-sample"
  )
  text = about("a", answers.engine, {"evaluation": {"train": {"images": 3, "bounds": bounds[:1]}}})
  assert text.endswith("Bits/dim of 3 train images: 2.500 single-sample")
  text = about("a", answers.engine, {"checkpoint": {"val_bits_per_dim": 2.5, "step": 3}})
  assert text.endswith("Bits/dim of validation: 2.500 single-sample, as measured in training")
  nothing = {"data": None, "checkpoint": None, "evaluation": None}
  assert about("a", answers.engine, nothing) == about("a", answers.engine, {})


def test_the_card_of_a_preset_says_where_it_comes_from_and_what_it_loses_to(answers):
  folder = fpp.models.preset_folder("photos")
  rows, record = Workdir(folder).rows(), json.loads((folder / "evaluation.json").read_text())
  card = ModelCard("presets/photos", {"evaluation": record}, {"batch_size": 8}, rows, (folder / "card.md").read_text())
  text = provenance(card)
  assert "| training | 11,500 steps of 8 images in 84 minutes on two cores" in text
  assert "| importance-weighted bound, 4 samples | 2.9766 +- 0.0511 bits/dim, 476 test images |" in text
  assert "| what it loses to | none of the codecs measured on these images |" in text
  assert "../" not in text and "**Limits.** Samples look like patches" in text
  assert "Patches of photographs, 32x32 pixels, RGB" in summary("photos", card, answers.engine)
  text, points = curve(rows)
  assert text.startswith("Validation 2.5734 bits/dim at step 100,000, the single-sample bound. ")
  for name, title in (("val_bits_per_dim", "validation"), ("bits_per_dim", "training")):
    recorded = [(row["step"], row[name]) for row in rows if np.isfinite(row[name])]  # none of training at step 0
    assert [point[:2] for point in points if point[2] == title] == recorded
  assert curve(rows[:0]) == ("No curve is recorded.", [])
  record["test"]["bounds"][-1]["bits_per_dim"] = 3.1
  assert "| what it loses to | JPEG XL, all images on one sheet, 3.063 |" in provenance(card)
  fine_tuned = [{"step": 0, "val_bits_per_dim": 4.0, "images_per_second": np.nan}, *rows]
  own = provenance(dataclasses.replace(card, text="", rows=fine_tuned))
  seconds = sum(8 * 1000 / row["images_per_second"] for row in rows if np.isfinite(row["images_per_second"]))
  assert f"| training | 101,000 steps of 8 images, some {seconds / 3600:.2g} hours by its rows |" in own


@pytest.mark.parametrize("preset", [slow("digits"), "digits_by_class"])
def test_neighbours_are_called_training_images_only_if_they_are(preset):
  model = fpp.FlowPlusPlus.from_preset(preset)
  settings = json.loads((ROOT / "flowpp_tf" / "pretrained" / preset / "config.json").read_text())["training"]
  dataset = programs_demo._dataset(settings, model.config)
  assert dataset.num_classes == 10  # which names the examples
  labelled = bool(model.config.num_classes)
  of_these = {**settings, "fingerprint": load_dataset("digits", labels=labelled).fingerprint()}
  for trained, what in ((settings, "images of digits, not those of training"), (of_these, "training images")):
    known, examples = programs_demo._known(dataset, trained, model.config)
    assert known.what == what and len(examples) == 6


# --- The program ----------------------------------------------------------------------------------


def test_two_models_are_one_too_many(workdir, tmp_path):
  for arguments in ((f"--workdir={workdir.path}", "--saved_model=a"), ("--preset=digits", "--saved_model=a")):
    line = refusal("demo", *arguments, cwd=tmp_path)
    assert "`saved_model` must be left out with --preset or --workdir" in line


@pytest.mark.needs("gradio")
def test_a_port_in_use_is_said_before_the_model_is_loaded(tmp_path):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    line = refusal("demo", "--workdir=nothing", f"--port={port}", cwd=tmp_path)
    assert re.search(f"cannot serve at --host=127.0.0.1 --port={port}: .*in use", line)
  line = refusal("demo", "--workdir=nothing", "--host=", cwd=tmp_path)
  assert "`host` must be an address or a name; 0.0.0.0 is for all addresses of this machine, got ''" in line


@pytest.mark.needs("gradio")
def test_the_address_is_not_named_before_the_page_answers(monkeypatch):
  lines, said_later = [], "the model is loaded, which takes a while"
  monkeypatch.setattr(programs_demo.process, "phase", lines.append)
  monkeypatch.setattr(programs_demo, "import_tensorflow", lambda: refuse(said_later))

  def refuse(message):
    raise InputError(message)

  (address,) = free_addresses(1)
  port = int(address.rpartition(":")[2])
  refuses(said_later, programs_demo.run, programs_demo.DemoOptions(preset="digits", port=port))
  assert lines == ["loading preset digits, to show on a page"]


SEVERAL = """
import pathlib, sys, types
import numpy as np
from PIL import Image
from flowpp_tf.demo import page

picture = Image.new("L", (8, 8))
answers = types.SimpleNamespace(
    engine=types.SimpleNamespace(
        most_samples=9, can_guide=False, can_compress=True, config=types.SimpleNamespace(num_classes=0, levels=8)),
    folder=pathlib.Path(sys.argv[1]), samples=lambda *given: picture, wall=lambda *given: (picture,) * 3,
    interpolation=lambda *given: (picture, sys.argv[1] + "/one.png", "", ""),
    score=lambda *given: (picture, picture, picture, ""), explain=lambda *given: "")
images = {name: np.zeros([4, 4, 1], np.uint8) for name in ("one", "two")}
shown = [page.DemoModel(name, answers, "text", "card", images) for name in ("a", "b")]
for models in (shown, shown[:1]):
  built = page.build_page("Models", models, print)
  print(*sorted({str(entry["api_name"]) for entry in built.config["dependencies"]}))
"""


_FUNCTIONS = ("sample", "wall", "score", "interpolate", "compress")


@pytest.mark.slow
@pytest.mark.needs("gradio")
def test_a_page_of_several_models_has_functions_of_their_own_for_each(tmp_path):
  """In a process of its own: Gradio leaves loops open that only the end of a process closes."""
  result = run(["-c", SEVERAL], tmp_path, cwd=ROOT, PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="3").ok()
  several, one = (set(line.split()) for line in result.out.splitlines())
  assert several >= {f"{name}_{what}" for name in "ab" for what in _FUNCTIONS}
  assert one >= {*_FUNCTIONS}


# --- The page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where the page has its temporary files."""
  return tmp_path_factory.mktemp("tmp")


@pytest.fixture(scope="module")
def url(workdir, folder):
  """The page of bin/demo, which must have lived until the end, and leaves no files and no traceback."""
  need("gradio")
  arguments = f"--workdir={workdir.path}", "--num_samples=3"
  with (
    open(folder.parent / "demo.log", "w") as log,
    served(*arguments, stderr=log, TMPDIR=str(folder)) as (url, process),
  ):
    yield url
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 0
  assert not list(folder.iterdir())
  assert "Traceback" not in (folder.parent / "demo.log").read_text()


@pytest.fixture(scope="module")
def browser():
  need("playwright", "chromium")
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=shutil.which("chromium"), args=["--disable-gpu", "--disable-quic"]
    )
    yield browser
    browser.close()


@pytest.fixture
def requests():
  """Addresses that the browser asks for."""
  return []


@pytest.fixture
def page(browser, url, requests):
  page = browser.new_page(viewport={"width": 1280, "height": 900})
  page.set_default_timeout(1000 * LIMIT)
  page.on("request", lambda request: requests.append(request.url))
  page.goto(url)
  yield page
  page.close()


def _open(page, tab):
  page.get_by_role("tab", name=tab).click()
  return page.get_by_role("tabpanel").filter(visible=True)


def _changed(panel, act, number=0):
  """What a picture of a tab is once `act()` has changed it, as an array."""
  picture = panel.locator(".picture img").nth(number)
  before = picture.get_attribute("src")
  act()
  panel.page.wait_for_function(
    "([image, before]) => image.src != before && image.complete && image.naturalWidth > 99",
    arg=[picture.element_handle(), before],
  )
  return _pixels(panel, number)


def _pixels(panel, number=0):
  address = panel.locator(".picture img").nth(number).get_attribute("src")
  with Image.open(io.BytesIO(panel.page.request.get(address).body())) as picture:
    return np.asarray(picture)


def _upload(panel, path):
  files, clear = panel.locator("input[type=file]"), panel.get_by_label("Clear")
  files.or_(clear).first.wait_for(state="attached")  # a tab is drawn some time after it is opened
  if clear.count():
    clear.first.click()
  files.first.set_input_files(path)


@pytest.mark.slow
@pytest.mark.browser
def test_samples_of_the_page_are_those_of_bin_sample(page, batched):
  panel = _open(page, "Samples")
  grid = lambda *args: np.asarray(evaluation.image_grid(batched.sample(*args), 8))
  panel.locator(".picture img").first.wait_for()
  np.testing.assert_array_equal(_pixels(panel), grid(16, 0.7, 0))
  seed = panel.get_by_label("Seed")
  seed.fill("7")
  np.testing.assert_array_equal(_changed(panel, lambda: seed.press("Enter")), grid(16, 0.7, 7))
  panel.get_by_text("Any number, at any temperature").click()
  button = panel.get_by_role("button", name="Sample", exact=True)
  np.testing.assert_array_equal(_changed(panel, button.click, 3), grid(64, 1.0, 7))
  pixels = _changed(panel, lambda: panel.get_by_role("slider").nth(1).click(position={"x": 90, "y": 2}), 3)
  temperature = float(panel.get_by_label("number input for Temperature").input_value())
  assert 0 < temperature < 1
  np.testing.assert_array_equal(pixels, grid(64, temperature, 7))
  pixels = _changed(panel, panel.get_by_role("button", name="New seed").click)
  np.testing.assert_array_equal(pixels, grid(16, 0.7, int(seed.input_value())))


@pytest.mark.browser
@pytest.mark.slow
def test_interpolation_of_an_example_and_of_an_upload(page, uploads):
  panel = _open(page, "Interpolation")
  _changed(panel, panel.get_by_text("sample 2 to sample 3").click)
  _changed(panel, lambda: _upload(panel, uploads / "good.png"))
  assert "of 32 pixel values differ" in panel.inner_text()
  panel.get_by_text("There and back, as an animated PNG").click()
  address = panel.locator(".picture img").nth(1).get_attribute("src")
  assert _milliseconds(io.BytesIO(page.request.get(address).body())) == 2 * 500 + 28 * 100
  film = panel.locator(".film")
  frame = lambda: film.evaluate("film => film.style.getPropertyValue('--frame')")
  assert frame() == "0"
  panel.get_by_role("slider", name="From the one to the other").press("End")
  page.wait_for_function("film => film.style.getPropertyValue('--frame') == 15", arg=film.element_handle())


@pytest.mark.browser
@pytest.mark.slow
def test_what_the_page_says_of_an_example_and_of_uploads(page, uploads, model, tmp_path):
  panel = _open(page, "Your image")
  _changed(panel, panel.get_by_text("blank image").click)
  scorer = evaluation.Scorer(model, 3)
  for name in ("good.png", "film.gif", "sixteen.png"):
    _changed(panel, lambda: _upload(panel, uploads / name))
    image = read_upload(uploads / name, CONFIG)[np.newaxis]
    bits = scorer(image)["bits_per_dim"][0]
    assert f"{bits:.4f}" in panel.inner_text()
    np.testing.assert_array_equal(_pixels(panel), evaluation.image_grid(image, 8))
  near = "|".join(f"{bits + k * 1e-4:.4f}" for k in range(-2, 3))  # a sum over positions is rounded in another way
  panel.get_by_text(re.compile(rf"or ({near}) bits/dim, is the importance-weighted bound")).wait_for()
  assert panel.locator(".figures img").count() == 4 and "Not shown: the training images" in panel.inner_text()
  panel.get_by_role("button", name="Compress").click()
  panel.get_by_text("To decode it: ").wait_for()
  with page.expect_download() as download:
    panel.locator("a[download='image.fpp']").click()
  download.value.save_as(tmp_path / "image.fpp")
  np.testing.assert_array_equal(fpp.decompress(model, (tmp_path / "image.fpp").read_bytes()), image)
  _changed(panel, panel.get_by_text("blank image").click)
  panel.get_by_text("To decode it: ").wait_for(state="detached")  # which was of the upload
  assert not panel.locator("a[download='image.fpp']").count()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(
  "name, message",
  [
    ("text.png", "'text.png' is not an image: expected one of PNG"),
    ("empty.png", "'empty.png': it is empty"),
    ("bomb.png", "--max_pixels raises the limit"),
  ],
)
def test_what_is_no_image_is_said_beside_the_results_and_the_page_goes_on(page, uploads, name, message):
  panel = _open(page, "Your image")
  _upload(panel, uploads / name)
  page.get_by_test_id("toast-body").filter(has_text=message).wait_for()
  assert panel.locator(".picture img").filter(visible=True).count() == 3 and "Log-likelihood" in panel.inner_text()
  page.get_by_test_id("toast-close").first.click()
  _changed(panel, lambda: _upload(panel, uploads / "good.png"))
  panel = _open(page, "Samples")
  panel.get_by_label("Seed").fill(str(len(name)))
  _changed(panel, lambda: panel.get_by_label("Seed").press("Enter"))


@pytest.mark.browser
@pytest.mark.slow
def test_a_narrow_page_shows_all_tabs_and_fits(page):
  page.set_viewport_size({"width": 400, "height": 800})
  for tab in ("Samples", "Interpolation", "Your image", "Card"):
    _open(page, tab)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.slow
@pytest.mark.parametrize(
  "data, message",
  [
    ("[1000000000, 1, 0]", "1000000000 is greater than"),
    ("[4, -1, 0]", "-1 is less than"),
    ("[NaN, 1, 0]", "The number of images must be from 1 to 100, got nan"),
    ("[4, NaN, 0]", "got nan"),
    ("[4, 1, NaN]", "got nan"),
    ("[4, 1, 1e400]", "got inf"),
    ("[4, 1, null]", "got nothing"),
    ('["many", 1, 0]', "cannot be answered (ComponentProcessingError)"),
    ("[]", "cannot be answered (ValueError)"),
  ],
)
def test_absurd_requests_are_answered_with_an_error(url, data, message):
  status, answer = _call(url, "sample", data)
  assert status == "error" and message in answer
  assert _call(url, "sample", "[4, 1, 0]")[0] == "complete"


@pytest.mark.slow
def test_requests_side_by_side_are_all_answered_and_only_from_the_queue(url):
  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    answers = list(pool.map(lambda seed: _call(url, "sample", f"[4, 1, {seed}]"), range(6)))
  assert [status for status, _ in answers] == ["complete"] * 6
  assert len({answer for _, answer in answers}) == 6
  direct = urllib.request.Request(
    f"{url}/gradio_api/run/sample", b'{"data": [4, 1, 0]}', {"Content-Type": "application/json"}
  )
  with pytest.raises(urllib.error.HTTPError, match="404"):
    urllib.request.urlopen(direct, timeout=LIMIT)


@pytest.mark.slow
def test_a_request_cannot_name_a_file_of_the_machine(url, uploads):
  file = json.dumps([{"path": str(uploads / "good.png"), "meta": {"_type": "gradio.FileData"}}])
  assert _call(url, "score", file)[0] == "error"


@pytest.mark.slow
def test_a_request_cannot_make_the_page_fetch_an_address(url):
  with socket.create_server(("127.0.0.1", 0)) as other:
    address = f"http://127.0.0.1:{other.getsockname()[1]}/a.png"
    for key in ("path", "url"):  # of which Gradio fetches the first, and hands the second to browsers
      file = {"path": "a.png", key: address, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
      for name, inputs in (
        ("score", [file]),
        ("compress", [file]),
        ("interpolate", [file, [file], 4]),
        ("sample", [file, 1, 0]),
        ("wall", [{"value": file}]),
      ):
        status, answer = _call(url, name, json.dumps(inputs))
        assert status == "error", (key, name)
        assert key == "url" or "addresses are not fetched" in answer, (key, name)
    for path in (f"/gradio_api/file={address}", f"/gradio_api/proxy={address}"):
      with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url + path, timeout=LIMIT)
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
      other.accept()


@pytest.mark.slow
def test_the_files_of_the_page_are_not_among_uploads(url, folder):
  with urllib.request.urlopen(f"{url}/config", timeout=LIMIT) as response:
    shown = [file for file in _files_of(json.load(response)) if file["url"].startswith(url)]
  assert len({file["path"] for file in shown}) == 7 + 3 + 9  # examples, pairs of them, and first answers
  for path in (next(folder.glob("flowpp_demo_*")) / "uploads").rglob("*"):
    if path.is_file():
      path.unlink()
  for file in shown:
    with urllib.request.urlopen(file["url"], timeout=LIMIT) as response:
      assert Image.open(io.BytesIO(response.read())).width
  example = next(file for file in shown if "sample_0" in file["path"])
  assert _call(url, "score", json.dumps([example]))[0] == "complete"


def _files_of(config):
  """All files in the configuration of a page."""
  if isinstance(config, dict) and isinstance(config.get("url"), str) and isinstance(config.get("path"), str):
    yield config
  elif isinstance(config, (dict, list)):
    for value in config.values() if isinstance(config, dict) else config:
      yield from _files_of(value)


@pytest.mark.slow
def test_uploads_that_are_too_large_or_break_off_leave_nothing(url, folder):
  """Gradio keeps the parts of an upload that breaks off, unless its form is bad."""
  port = urllib.parse.urlsplit(url).port
  uploads = next(folder.glob("flowpp_demo_*")) / "uploads"
  parts = lambda: [path for path in uploads.glob("*") if path.is_file() and path.stat().st_size]
  kept = {*uploads.glob("*/*")}
  assert _send_upload(port, bytes(65 << 20)) == 413
  assert _send_upload(port, bytes(65 << 20), chunked=True) == 413
  assert _send_upload(port, bytes(33 << 20), files=2) == 413  # of all files together
  assert _send_upload(port, b"") == 200
  broken = _begin_upload(port, 99_999, bytes(9_999))
  wait_for(parts)
  broken.close()
  wait_for(lambda: not parts())
  assert not any(path.stat().st_size for path in {*uploads.glob("*/*")} - kept)


_BEGIN = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
_END = b"\r\n--b--\r\n"


def _begin_upload(port, length, body=b""):
  """Return a connection on which an upload of so many bytes, or in chunks if it is None, has begun."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
  connection.putrequest("POST", "/gradio_api/upload")
  connection.putheader("Content-Type", "multipart/form-data; boundary=b")
  if length is None:
    connection.putheader("Transfer-Encoding", "chunked")
  else:
    connection.putheader("Content-Length", str(len(_BEGIN) + length + len(_END)))
  connection.endheaders()
  connection.send(_BEGIN + body if length is not None else b"%x\r\n%s\r\n" % (len(_BEGIN), _BEGIN))
  return connection


def _send_upload(port, body, chunked=False, files=1):
  """Upload a file, or several; return the status, which can come before the end of the body."""
  body = (b"\r\n" + _BEGIN).join(files * [body])
  with contextlib.closing(_begin_upload(port, None if chunked else len(body))) as connection:
    with contextlib.suppress(ConnectionError):  # the server does not read on
      connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body + _END), body + _END) if chunked else body + _END)
    return connection.getresponse().status


@pytest.mark.slow
@pytest.mark.needs("gradio")
def test_a_page_with_a_password_shows_nothing_without_it(workdir, tmp_path):
  def login(user, password):
    form = urllib.parse.urlencode({"username": user, "password": password}).encode()
    with urllib.request.urlopen(f"{url}/login", form, timeout=LIMIT) as response:
      return response.status, response.headers["Set-Cookie"]

  (tmp_path / "visitors").write_text("ada:one\nbob:two:2\n")
  arguments = f"--workdir={workdir.path}", f"--auth=@{tmp_path}/visitors"
  with open(tmp_path / "log", "w") as log, served(*arguments, stderr=log) as (url, _):
    for path in ("config", "gradio_api/info"):
      with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/{path}", timeout=LIMIT)
    for wrong in (("ada", "two:2"), ("bob", "two"), ("eve", "one"), ("", "")):
      with pytest.raises(urllib.error.HTTPError, match="4[02][02]"):
        login(*wrong)
    for right in (("ada", "one"), ("bob", "two:2")):
      status, cookie = login(*right)
      request = urllib.request.Request(f"{url}/config", headers={"Cookie": cookie.partition(";")[0]})
      assert status == 200 and b"components" in urllib.request.urlopen(request, timeout=LIMIT).read()


def _call(url, name, data):
  """The last event and its data of a request without a browser."""
  request = urllib.request.Request(
    f"{url}/gradio_api/call/{name}", f'{{"data": {data}}}'.encode(), {"Content-Type": "application/json"}
  )
  with urllib.request.urlopen(request, timeout=LIMIT) as response:
    event = json.load(response)["event_id"]
  with urllib.request.urlopen(f"{request.full_url}/{event}", timeout=LIMIT) as response:
    *_, event, data, _ = response.read().decode().split("\n\n")[-2].split("\n") + [""]
  return event.removeprefix("event: "), data


@pytest.mark.browser
@pytest.mark.slow
def test_nothing_is_asked_for_elsewhere(page, requests, url):
  assert requests and all(address.startswith((url, "data:", "blob:")) for address in requests)


@pytest.mark.parametrize("value", [12.3456, -0.25, 1.0])
def test_a_histogram_says_the_value_and_its_place(value):
  shown = histogram(np.array([0.5, 1.0, 2.0, 20.0]), value, "test images")
  fewer = sum(other < value for other in (0.5, 1.0, 2.0, 20.0))
  text = f"<b>{value:.3f}</b> bits/dim: more than {fewer} of 4 test images, no more than the other {4 - fewer}."
  assert f"<p>{text}</p>" in shown and shown.count(", and this") == 1 and shown.count("class='bar'") == 4
  refuses("is not finite", histogram, np.array([0.5, 1.0]), np.inf, "test images")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(num_classes=3), "train with --label_dropout=0.1"),
    (dict(dequantization="none"), "the page is for models of integer images, and this one's are real-valued"),
  ],
)
def test_a_model_of_images_that_nobody_uploads_is_refused_by_name(tmp_path, changes, message):
  model = fpp.FlowPlusPlus(dataclasses.replace(CONFIG, **changes))
  model.save_to_preset(tmp_path / "preset", "of other images")
  result = call("demo", f"--preset={tmp_path / 'preset'}", "--port=45871", cwd=tmp_path)
  assert result.code == 2 and message in result.error

"""Run all benchmarks, and write the tables and figures of README and the pages.

python benchmarks/run_all.py                       measures what needs no flag below, some hours
python benchmarks/run_all.py --only=model,race --release=/tmp/release   these parts again, see race.py
python benchmarks/run_all.py --only=ablations_digits --runs=/tmp/runs   fifteen runs, kept and resumed in that folder
python benchmarks/run_all.py --only=posteriors --runs=/tmp/runs --sbibm=WHEEL   likewise, see posteriors.py
python benchmarks/run_all.py --write               measures nothing: tables and figures of what is stored

The results are kept in benchmarks/results.json: of each part the commands, what they wrote, and the machine; and what
was measured once, with a word on how. A table is written between the marks `<!-- table NAME -->` and `<!-- end -->` of
a page, a figure in a sentence between `<!-- figure NAME -->` and `<!-- end -->`: a sentence that has its figures from
here cannot contradict the table of another page. Then `python docs/pictures` draws the pictures that show them.
"""

import functools
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

from absl import app, flags

import ablations
from flowpp_tf.config import Recipe
import race
import sample_quality
from tables import RESULTS, filled, markdown, results, stored_results

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
PRESETS = ROOT / "flowpp_tf" / "pretrained"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

# Scripts and flags of each part. What is compared is measured by one command, in turn.
PARTS = {
  "model": (
    "model.py --configs={config} --batches=4 --threads=2 --what=train,sample --variant=plain --variant=baseline",
    "model.py --configs={config} --batches=8 --threads=2 --what=train --variant=plain --variant=remat=blocks",
    "model.py --configs={config} --batches=4 --threads=2 --what=train,evaluate --precision=float32,bfloat16",
  ),
  "large_batches": (
    "model.py --configs=photos --batches=4,32,128 --what=train --threads=2 --repeats=3",
    "model.py --configs={config} --batches=4,32 --what=train --threads=2 --repeats=3",
    "model.py --configs={config} --batches=4,32 --what=train --threads=2 --repeats=3 --variant=remat=blocks",
    "model.py --configs={config} --batches=128 --what=train --threads=2 --repeats=2 --variant=remat=blocks",
    "model.py --configs=celeba128_5bit --batches=1,4 --what=train --threads=2 --repeats=3 --variant=remat=blocks",
  ),
  "race": ("race.py --release={release}",),
  "archives": (
    "compression.py --preset=digits --codecs",
    "compression.py --preset=fashion_mnist --codecs --draws=1",
    "compression.py --preset=photos --codecs",
    "compression.py --preset=digits --split=train",
  ),
  "vector_flows": ("vector_flows.py",),
  "codec_speed": ("plain_codecs.py --speed",),
  "sample_quality": ("sample_quality.py --samples=2000 --temperature=0.7,0.8,0.9,1.0",),
  "field_calibration": ("../examples/field_calibration.py",),
  "ablations_digits": ("ablations.py --data=digits --runs={runs}/ablations_digits",),
  "ablations_fashion_mnist": (
    "ablations.py --data=fashion_mnist --steps=2000 --validate_every=250 --runs={runs}/ablations_fashion_mnist",
  ),
  "posteriors": (
    "posteriors.py --sbibm={sbibm} --runs={runs}/posteriors --simulations=1000 --seeds=0 --observations=1,2,3",
    "posteriors.py --sbibm={sbibm} --runs={runs}/posteriors --simulations=10000",
    "posteriors.py --sbibm={sbibm} --runs={runs}/posteriors --simulations=100000 --seeds=0 --observations=1,2,3",
  ),
}
NEEDS = {  # flags without a default
  "race": ["release"],
  "ablations_digits": ["runs"],
  "ablations_fashion_mnist": ["runs"],
  "posteriors": ["runs", "sbibm"],
}
ONCE = ("peers", "costs")  # parts that no command writes

# Test split after `bin/train --flagfile=configs/digits.flags`, one run: single-sample bound, importance-weighted of 64.
DIGITS_RUN = {"single": 1.8293, "weighted": 1.7686}
ARCHIVE_CONSTANT = 600  # bytes of an archive of digits beyond 1.005 of its bound
GLOW_FASHION_MNIST = "2.958"  # Nalisnick et al. 2019, arXiv:1810.09136
# By preset: what its row says behind the name.
NOTES = {"digits": "", "digits_by_class": ", given the label", "fashion_mnist": "", "photos": ""}
H100_TF32 = 494.5e12  # FLOP/s of matrix products, without sparsity, by the data sheet
SHARE = 0.05  # of that peak, assumed
STEPS = 100_000  # of the hours in the table of costs


def run(command):
  """Run a command of PARTS and return what it writes as its `--output`."""
  print(f"+ {command}", file=sys.stderr, flush=True)
  script, *arguments = command.split()
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / "output.json"
    subprocess.run(
      [sys.executable, str(ROOT / "benchmarks" / script), *arguments, f"--output={output}"],
      check=True,
      stdout=sys.stderr,
    )
    return json.loads(output.read_text())


def machine():
  """Return processor, cores, memory and versions, as a dict."""
  processor = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
  versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "tensorflow-probability")}
  return dict(
    processor=processor[1] if processor else platform.machine(),
    cores=len(os.sched_getaffinity(0)),
    memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
    python=platform.python_version(),
    **versions,
  )


def measured(part, **places):
  """Return the results of a part, as they are stored; `places` are what its commands have in braces."""
  commands = [text.format(**places) for text in PARTS[part]]
  return dict(machine=machine(), runs=[dict(command=command, result=run(command)) for command in commands])


# --- The presets' own evaluations, and archives of their test splits ---


def evaluation(preset):
  """Return the stored evaluation of a preset on its test split."""
  return json.loads((PRESETS / preset / "evaluation.json").read_text())["test"]


def bound(preset, index=0):
  """Return `(bits/dim, standard error, samples)`: 0 is the single-sample bound, 1 the importance-weighted one."""
  values = evaluation(preset)["bounds"][index]
  return values["bits_per_dim"], values["standard_error"], values["num_samples"]


def codec(stored, preset, name):
  """Return what a codec needs, bits/dim: one file each, and all images on one sheet."""
  found = [c for c in evaluation(preset).get("codecs", ()) if c["codec"] == name]
  each, sheet = (found[0]["each"], found[0]["sheet"]) if found else archives(stored)[preset]["codecs"][name]
  return f"{each:.3f}; {sheet:.3f}"


def dimensions(preset):
  """Return how many numbers an image has."""
  return math.prod(evaluation(preset)["data"]["image_shape"])


def archives(stored, split="test"):
  """Return the archives of a split of presets' data, by preset."""
  return {entry["preset"]: entry for entry in results(stored, "archives") if entry["split"] == split}


def archive_bits(entry):
  """Return bits/dim of an archive with all its headers."""
  return 8 * entry["bytes"] / (entry["images"] * dimensions(entry["preset"]))


# --- Tables: rows of texts, the first the head ---


def machine_table(stored):
  yield "measured", "processor", "cores", "memory", "versions"
  parts = {}
  for part in PARTS:
    if machine := stored.get(part, {}).get("machine"):
      parts.setdefault(json.dumps(machine), []).append(part)
  for text, names in parts.items():
    m = json.loads(text)
    yield (
      ", ".join(names),
      m["processor"],
      str(m["cores"]),
      f"{m['memory_gib']} GiB",
      f"Python {m['python']}, TensorFlow {m['tensorflow']}, Keras {m['keras']}, TFP {m['tensorflow-probability']}",
    )


def ratios_table(stored):
  """Of each command that compares: the second of its variants or precisions relative to the first."""
  yield ("", "compared with", "", "batch", "ms per image", "the other", "time", "peak GiB", "the other", "memory")
  for rows in results(stored, "model"):
    for first in rows:
      for other in rows:
        kinds = [r["variant"] if first["variant"] != other["variant"] else r["precision"] for r in (other, first)]
        same = all(first[key] == other[key] for key in ("config", "what", "batch", "threads"))
        if same and rows.index(first) < rows.index(other):
          yield (
            kinds[0],
            kinds[1],
            first["what"],
            str(first["batch"]),
            _digits(other["ms_image"]),
            _digits(first["ms_image"]),
            f"{other['ms_image'] / first['ms_image']:.2f}",
            f"{other['peak_gib']:.2f}",
            f"{first['peak_gib']:.2f}",
            f"{other['peak_gib'] / first['peak_gib']:.2f}",
          )


def large_batches_table(stored):
  """Time and memory per image of a training step, its time relative to that of the first batch of its model."""
  yield "model", "batch", "remat", "ms per image", "spread", "of the first batch", "MB of tensors per image", "peak GiB"
  first = {}
  for r in itertools.chain(*results(stored, "large_batches")):
    kind = r["config"], r["variant"]
    ms = first.setdefault(kind, r["ms_image"])
    yield (
      r["config"],
      str(r["batch"]),
      r["variant"].partition("remat=")[2],
      _digits(r["ms_image"]),
      f"{r['spread_percent']:.0f} %",
      f"{r['ms_image'] / ms:.2f}",
      _digits(r["tensors_gib"] * 2**30 / 1e6 / r["batch"]),
      f"{r['peak_gib']:.2f}",
    )


def race_table(stored):
  """This version compared with the authors' release; see race.py."""
  yield from race.table(itertools.chain(*results(stored, "race")))


def peers_table(stored):
  """An earlier version compared with an implementation in PyTorch."""
  yield "", "batch", "cores", "version 1638286", "relative to PyTorch"
  (found,) = results(stored, "peers")
  for r in found["rows"]:
    time = f"{r['ours_ms_image']} ms per image"
    yield r["what"], str(r["batch"]), str(r["threads"]), time, f"{r['to_pytorch']:.2f}"
  for r in found["memory"]:
    yield "peak memory, training", str(r["batch"]), "2", f"{r['ours_gib']:.2f} GiB", f"{r['to_pytorch']:.2f}"


def costs_table(stored):
  """Operations and memory of each recipe's training step, and hours of a GPU at an assumed share of its peak."""
  head = "recipe|parameters|batch|GFLOP per image|state, GB|MB per image|GB of a step"
  yield *head.split("|"), f"hours of an H100, {STEPS:,} steps"
  for row in results(stored, "costs")[0]["steps"]:
    batch = Recipe.load(row["config"]).settings["batch_size"]
    state = 4 * (4 * row["parameters"] + row["gradients"])  # weights, Adam's moments, EMA weights, gradients
    memory = state + row["saved_bytes_pass"] + batch * row["saved_bytes_image"]
    yield (
      row["config"],
      f"{row['parameters']:,}",
      str(batch),
      _digits(row["training_flops_image"] / 1e9),
      f"{state / 1e9:.2f}",
      _digits(row["saved_bytes_image"] / 1e6),
      f"{memory / 1e9:.2f}",
      f"{hours_of_gpu(row, batch, STEPS):.2g}",
    )


def hours_of_gpu(row, batch, steps):
  """Return the hours of steps of a recipe on an H100 that reaches `SHARE` of its peak."""
  return steps * batch * row["training_flops_image"] / (SHARE * H100_TF32) / 3600


def codec_speed_table(stored):
  yield "", "bits per pixel", "encoding, megapixels/s", "decoding, megapixels/s", "spread of encoding"
  for result in results(stored, "codec_speed"):
    for r in result:
      speed = f"{r['encode']:.3g}", f"{r['decode']:.3g}"
      yield r["codec"], f"{r['bits_pixel']:.2f}", *speed, f"{r['spread_percent']:.0f} %"


def ablations_table(stored, part):
  for table in results(stored, part):
    yield from ablations.cells(table)


def vector_flows_table(stored):
  yield "data", "flow", "held-out nats, +- over seeds", "", "CPU ms a step"
  for result in results(stored, "vector_flows"):
    for r in result["rows"]:
      yield (
        r["data"],
        r["flow"],
        f"{r['nats']:.3f} +- {r['error']:.3f}" if r["seeds"] > 1 else f"{r['nats']:.3f}",
        r["verdict"],
        _digits(r["cpu_ms"]) if r["cpu_ms"] else "",
      )


def posteriors_table(stored):
  """C2ST of each task and number of simulations, the published one in brackets; the last row is that of the means."""
  counts = [result["rows"] for result in results(stored, "posteriors")]
  yield "task", *(f"{rows[0]['simulations']:,} simulations" for rows in counts)
  for same in zip(*counts, strict=True):
    yield same[0]["task"], *(f"{r['c2st']:.3f} +- {r['error']:.3f} ({r['published']:.3f})" for r in same)
  yield "observations, seeds", *(f"{rows[-1]['observations']}, {rows[-1]['seeds']}" for rows in counts)
  yield "CPU minutes of training", *(f"{rows[-1]['cpu_minutes']:.1f}" for rows in counts)


def readme_table(stored):
  """The results of the README."""
  codecs = ("JPEG XL", "PNG")
  yield "preset", "test images", "single-sample bound", "as an archive", *(f"{name}, files; sheet" for name in codecs)
  for name in ("fashion_mnist", "photos", "digits"):
    value, error, _ = bound(name)
    entry = archives(stored)[name]
    yield (
      f"`{name}`{NOTES[name]}",
      f"{evaluation(name)['images']:,}",
      f"{value:.3f} +- {error:.3f}",
      f"{archive_bits(entry):.3f}",
      *(codec(stored, name, other) for other in codecs),
    )


def presets_table(stored):
  """The measurements of docs/presets.md."""
  yield "preset", "test images", "single-sample bound", "importance-weighted, samples", "weights"
  for name in sorted(NOTES):
    value, error, _ = bound(name)
    weighted, _, samples = bound(name, 1)
    size = (PRESETS / name / "best.weights.safetensors").stat().st_size
    yield (
      f"[{name}](../flowpp_tf/pretrained/{name}/card.md){NOTES[name]}",
      f"{evaluation(name)['images']:,}",
      f"{value:.3f} +- {error:.3f}",
      f"{weighted:.3f}, {samples}",
      f"{size / 1e6:.1f} MB",
    )


def archives_table(stored):
  """The sizes of docs/compression.md."""
  entries = archives(stored)
  yield "", *(f"{name}, {entry['images']:,}" for name, entry in entries.items())
  yield "archive, bytes", *(f"{entry['bytes']:,}" for entry in entries.values())
  yield "**archive**", *(f"**{archive_bits(entry):.3f}**" for entry in entries.values())
  yield "single-sample bound, same draw", *(f"{entry['bound']:.3f}" for entry in entries.values())
  for name in ("JPEG XL", "WebP", "PNG", *entries["digits"]["codecs"]):
    yield name + (", files; sheet" if name == "JPEG XL" else ""), *(codec(stored, preset, name) for preset in entries)


def samples_table(stored):
  """The figures of samples of docs/benchmarks/samples.md."""
  return sample_quality.table(results(stored, "sample_quality")[0])


TABLES = dict(
  machine=machine_table,
  race=race_table,
  peers=peers_table,
  ratios=ratios_table,
  large_batches=large_batches_table,
  costs=costs_table,
  vector_flows=vector_flows_table,
  posteriors=posteriors_table,
  codec_speed=codec_speed_table,
  ablations_digits=functools.partial(ablations_table, part="ablations_digits"),
  ablations_fashion_mnist=functools.partial(ablations_table, part="ablations_fashion_mnist"),
  readme=readme_table,
  presets=presets_table,
  archives=archives_table,
  samples=samples_table,
)


def tables(stored):
  """Return all tables as Markdown, by name; a part that was not measured yet has none."""
  there = (name for name in TABLES if name in stored or name not in PARTS)
  return {name: markdown(list(TABLES[name](stored))) for name in there}


# --- Figures in sentences ---


def figures(stored):
  """Return all figures as texts, by name."""
  return {
    **_preset_figures(stored),
    **_archive_figures(stored),
    **_race_figures(stored),
    **_variant_figures(stored),
    **_cost_figures(stored),
  }


def _preset_figures(stored):
  found = {f"{name}_single": f"{bound(name)[0]:.3f}" for name in NOTES}
  for name, result in results(stored, "sample_quality")[0].items():
    best = sample_quality.best_temperature(result)
    distance = lambda row: f"{row['test']['frechet_distance']:.1f}"
    found |= {
      f"{name}_best_temperature": best,
      f"{name}_frechet_best": distance(result["temperatures"][best]),
      f"{name}_frechet_1": distance(result["temperatures"]["1.0"]),
      f"{name}_frechet_real": distance(result["real"]),
    }
  found |= {f"digits_run_{kind}_2": f"{value:.2f}" for kind, value in DIGITS_RUN.items()}
  found["fashion_mnist_glow"] = GLOW_FASHION_MNIST
  found["label_bits"] = f"{math.log2(10) / dimensions('digits_by_class'):.3f}"
  return found


def _archive_figures(stored):
  test, split = archives(stored), archives(stored, "train")["digits"]
  excess = {name: archive_bits(entry) / entry["bound"] - 1 for name, entry in test.items()}
  return {
    **{f"{name}_above_bound": f"{100 * value:.1f} %" for name, value in excess.items()},
    "archive_constant": str(ARCHIVE_CONSTANT),
    "digits_constant_share": f"{100 * ARCHIVE_CONSTANT / test['digits']['bytes']:.0f} %",
    "digits_training_images": f"{split['images']:,}",
    "digits_training_bytes": f"{split['bytes']:,}",
    "digits_training_archive": f"{archive_bits(split):.3f}",
    "digits_training_bound": f"{split['bound']:.3f}",
    "digits_training_constant_share": f"{100 * ARCHIVE_CONSTANT / split['bytes']:.1f} %",
  }


def _race_figures(stored):
  """This version relative to the authors' release, on two cores in float32."""
  rows = itertools.chain(*results(stored, "race"))
  by_case = {(r["what"], r["batch"]): r for r in rows if (r["precision"], r["threads"]) == ("float32", 2)}
  train = by_case["train", 4]
  return {
    **{f"release_{what}": f"{by_case[what, 4]['ratio']:.2f}" for what in ("train", "evaluate", "sample")},
    "release_memory": f"{train['peak_gib'] / train['before_peak_gib']:.2f}",
    "release_first_step": f"{by_case['start', 4]['ratio']:.2f}",
  }


def _variant_figures(stored):
  """Time and memory of variants of cifar10 relative to the plain model, each measured in turn with it."""
  found = {}
  for rows, name in zip(results(stored, "model"), ("baseline", "remat", "bfloat16"), strict=True):
    for what in dict.fromkeys(r["what"] for r in rows):
      plain, other = (r for r in rows if r["what"] == what)
      for word, key in (("time", "ms_image"), ("memory", "peak_gib")):
        found[f"{name}_{what}_{word}"] = f"{other[key] / plain[key]:.2f}"
  return found


def _cost_figures(stored):
  (found,) = results(stored, "costs")
  (cifar10,) = (row for row in found["steps"] if row["config"] == "cifar10")
  settings = Recipe.load("cifar10").settings
  days = hours_of_gpu(cifar10, settings["batch_size"], settings["steps"]) / 24
  kept = {f"kept_cifar10_{remat}": _digits(mb) for remat, mb in found["cifar10_mb_per_image"].items()}
  return {"cifar10_days_h100": f"{days:.0f}", **kept}


def written(pages, stored):
  """Return the pages, a `dict` of texts by their path, with the tables and figures of stored results."""
  return filled(pages, tables(stored), figures(stored))


def _digits(value):
  """Return a text with three digits of a number, without an exponent."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def define_flags():
  """Define the script's flags; a function, as tests import this file."""
  flags.DEFINE_list(
    "only", [part for part in PARTS if part not in NEEDS], f"Parts to measure, any of {', '.join(PARTS)}."
  )
  flags.DEFINE_string("config", "cifar10", "Model of the parts that are of one.")
  flags.DEFINE_string("release", None, "Checkout of the authors' release, for the race with it.")
  flags.DEFINE_string("runs", None, "Folder of the runs of ablations and posteriors, which a later call resumes.")
  flags.DEFINE_string("sbibm", None, "Wheel of sbibm, for posteriors.")
  flags.DEFINE_bool("write", False, "Measure nothing; write tables of what is stored.")


def main(argv):
  del argv
  unknown = set(FLAGS.only) - set(PARTS)
  if unknown:
    raise app.UsageError(f"--only takes {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
  for part in FLAGS.only:
    if missing := [name for name in NEEDS.get(part, ()) if not FLAGS[name].value]:
      raise app.UsageError(f"--only={part} takes --{missing[0]}, see benchmarks/{PARTS[part][0].split()[0]}")
  stored = stored_results()
  if not FLAGS.write:
    for part in FLAGS.only:  # each is kept, should the next one fail
      stored[part] = measured(part, **{name: FLAGS[name].value for name in ("config", "release", "runs", "sbibm")})
      RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
  for path, text in written({path: path.read_text() for path in PAGES}, stored).items():
    path.write_text(text)


if __name__ == "__main__":
  define_flags()
  app.run(main)

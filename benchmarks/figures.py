"""The figures of the README and the pages, by name.

They follow from results.json, peers.json, archives.json, counts.json, sample_quality.json and the presets. `python
benchmarks/run_all.py --write` writes them between `<!-- figure NAME -->` and `<!-- end -->`. A sentence that has its
figures from here cannot contradict the table of another page.
"""

import itertools
import json
import math
import pathlib

import counts
import growth
import sample_quality
import scaling

ROOT = pathlib.Path(__file__).resolve().parent.parent
PRESETS = ROOT / "flowpp_tf" / "pretrained"
PEERS = json.loads((ROOT / "benchmarks" / "peers.json").read_text())
ARCHIVES = json.loads((ROOT / "benchmarks" / "archives.json").read_text())
# Test split after `bin/train --flagfile=configs/digits.flags`, one run: single-sample bound, importance-weighted of 64.
DIGITS_RUN = {"single": 1.8293, "weighted": 1.7686}
GLOW_FASHION_MNIST = "2.958"  # Nalisnick et al. 2019, arXiv:1810.09136
# By preset: what its row says behind the name.
NOTES = {"digits": "", "digits_by_class": ", given the label", "fashion_mnist": "", "photos": ""}


def evaluation(preset):
  """The stored evaluation of a preset on its test split."""
  return json.loads((PRESETS / preset / "evaluation.json").read_text())["test"]


def bound(preset, index=0):
  """`(bits/dim, standard error, samples)`: 0 is the single-sample bound, 1 the importance-weighted one."""
  values = evaluation(preset)["bounds"][index]
  return values["bits_per_dim"], values["standard_error"], values["num_samples"]


def codec(preset, name):
  """What a codec needs, bits/dim: one file each, and all images on one sheet."""
  found = [c for c in evaluation(preset).get("codecs", ()) if c["codec"] == name]
  each, sheet = (found[0]["each"], found[0]["sheet"]) if found else ARCHIVES["codecs"][name][preset]
  return f"{each:.3f}; {sheet:.3f}"


def dimensions(preset):
  """Numbers of an image."""
  return math.prod(evaluation(preset)["data"]["image_shape"])


def archive_bits(preset, entry):
  """Bits/dim of an archive with all its headers."""
  return 8 * entry["bytes"] / (entry["images"] * dimensions(preset))


def readme_table(stored):
  """The results of the README."""
  del stored  # the presets' own
  codecs = ("JPEG XL", "PNG")
  yield "preset", "test images", "single-sample bound", "as an archive", *(f"{name}, files; sheet" for name in codecs)
  for name in ("fashion_mnist", "photos", "digits"):
    value, error, _ = bound(name)
    entry = ARCHIVES["presets"].get(name)
    yield (
      f"`{name}`{NOTES[name]}",
      f"{evaluation(name)['images']:,}",
      f"{value:.3f} +- {error:.3f}",
      f"{archive_bits(name, entry):.3f}" if entry else "",
      *(codec(name, other) for other in codecs),
    )


def presets_table(stored):
  """The measurements of docs/presets.md."""
  del stored
  codecs = ("JPEG XL", "WebP", "PNG")
  yield (
    "preset",
    "test images",
    "single-sample bound",
    "importance-weighted, samples",
    *(f"{name}, files; sheet" for name in codecs),
    "weights",
  )
  for name in sorted(NOTES):
    value, error, _ = bound(name)
    weighted, _, samples = bound(name, 1)
    size = (PRESETS / name / "best.weights.h5").stat().st_size
    yield (
      f"[{name}](../flowpp_tf/pretrained/{name}/card.md){NOTES[name]}",
      f"{evaluation(name)['images']:,}",
      f"{value:.3f} +- {error:.3f}",
      f"{weighted:.3f}, {samples}",
      *(codec(name, other) for other in codecs),
      f"{size / 1e6:.1f} MB",
    )


def archives_table(stored):
  """The sizes of docs/compression.md."""
  del stored
  entries = ARCHIVES["presets"]
  yield "", *(f"{name}, {entry['images']:,}" for name, entry in entries.items())
  yield "archive, bytes", *(f"{entry['bytes']:,}" for entry in entries.values())
  yield "**archive**", *(f"**{archive_bits(name, entry):.3f}**" for name, entry in entries.items())
  yield "single-sample bound, same draw", *(f"{entry['bound']:.3f}" for entry in entries.values())
  for name in ("JPEG XL", "WebP", "PNG", *ARCHIVES["codecs"]):
    yield name + (", files; sheet" if name == "JPEG XL" else ""), *(codec(preset, name) for preset in entries)


def samples_table(stored):
  """The figures of samples of docs/benchmarks/samples.md."""
  del stored  # a file of its own
  return sample_quality.table(sample_quality.stored())


def paper_table(stored):
  """The ablations of the README: what each change adds to bits/dim, in the paper and here."""
  digits, fashion = (_results(stored, f"ablations_{data}")[0]["rows"] for data in ("digits", "fashion_mnist"))
  yield (
    "bits/dim more than Flow++ with",
    "the paper: CIFAR-10, 31.4M parameters",
    "here: digits 8x8, 1.0M",
    "here: Fashion-MNIST, 0.9M",
  )
  for rows in zip(digits, fashion, strict=True):
    first = rows[0]
    if first["paper_less_full"]:
      ours = (f"{row['test_less_full']['mean']:.3f} +- {row['test_less_full']['standard_error']:.3f}" for row in rows)
      yield first["title"], f"{first['paper_less_full']:.3f}", *ours


TABLES = dict(
  readme=readme_table, paper=paper_table, presets=presets_table, archives=archives_table, samples=samples_table
)


def figures(stored):
  """All figures as texts, by name; see `with_figures` of tables.py."""
  of_results = (_release_figures, _variant_figures, _growth_figures, _inverse_figures, _input_figures)
  found = {**_preset_figures(), **_archive_figures(), **_kept_figures(), **days_of_cifar10()}
  for part in of_results:
    found |= part(stored)
  return found


def _preset_figures():
  found = {}
  for name in NOTES:
    for index, kind in enumerate(("single", "weighted")):
      value, error, samples = bound(name, index)
      key = f"{name}_{kind}"
      found |= {key: f"{value:.3f}", f"{key}_2": f"{value:.2f}", f"{key}_error": f"{error:.3f}"}
      found[f"{key}_samples"] = str(samples)
  for name, result in sample_quality.stored().items():
    best = sample_quality.best_temperature(result)
    distance = lambda row, split="test": f"{row[split]['frechet_distance']:.1f}"
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


def _archive_figures():
  found = {f"{name}_archive": f"{archive_bits(name, entry):.3f}" for name, entry in ARCHIVES["presets"].items()}
  for name, entry in ARCHIVES["presets"].items():
    found[f"{name}_above_bound"] = f"{100 * (archive_bits(name, entry) / entry['bound'] - 1):.1f} %"
  split, constant = ARCHIVES["training_split"], ARCHIVES["constant_bytes"]
  found |= {
    "archive_constant": str(constant),
    "digits_constant_share": f"{100 * constant / ARCHIVES['presets']['digits']['bytes']:.0f} %",
    "digits_training_images": f"{split['images']:,}",
    "digits_training_bytes": f"{split['bytes']:,}",
    "digits_training_archive": f"{archive_bits(split['preset'], split):.3f}",
    "digits_training_bound": f"{split['bound']:.3f}",
    "digits_training_constant_share": f"{100 * constant / split['bytes']:.1f} %",
  }
  return found


def _results(stored, part):
  return [entry["result"] for entry in stored[part]["runs"]]


def _release_figures(stored):
  """This version relative to the authors' release, on two cores: in the race with it, or, as long as there is none, by
  way of the version that was measured beside it."""
  if "race" in stored:  # whose rows replace those of the same case without oneDNN
    parts = [part for part in ("race_without_onednn", "race") if part in stored]
    rows = [*itertools.chain(*(result for part in parts for result in _results(stored, part)))]
    return _race_figures(rows) | _busy_figures(rows)
  turns = {
    (part, r["config"], r["what"], r["batch"], r["threads"], r["precision"]): r
    for part in ("turns", "turns_without_amx")
    for rows in _results(stored, part)
    for r in rows
  }
  to_release = {(r["what"], r["batch"], r["threads"]): r["to_release"] for r in PEERS["rows"]}
  before = next(r for r in PEERS["memory"] if r["batch"] == 8)
  peak = turns["turns_without_amx", "cifar10", "train", 8, 2, "float32"]["peak_gib"]
  return {
    **{
      f"release_{what}": f"{turns['turns', 'cifar10', what, 4, 2, 'float32']['ratio'] * to_release[what, 4, 2]:.2f}"
      for what in ("train", "evaluate", "sample")
    },
    "release_memory": f"{peak / (before['ours_gib'] / before['to_release']):.2f}",
    "release_memory_gib": f"{peak:.2f}",
    "release_first_step": f"{PEERS['first_step']['to_release']:.2f}",
  }


def _race_figures(rows):
  """The figures of `_release_figures` from the rows of race.py."""
  by_case = {(r["what"], r["batch"]): r for r in rows if (r["precision"], r["threads"]) == ("float32", 2)}
  train = by_case["train", 4]
  return {
    **{f"release_{what}": f"{by_case[what, 4]['ratio']:.2f}" for what in ("train", "evaluate", "sample")},
    "release_memory": f"{train['peak_gib'] / train['before_peak_gib']:.2f}",
    "release_memory_gib": f"{train['peak_gib']:.2f}",
    "release_first_step": f"{by_case['start', 4]['ratio']:.2f}",
  }


def _busy_figures(rows):
  """Time of a training step beside busy processes, relative to that beside none: with lanes, without, the release."""
  seconds = {(r["what"], r["precision"].partition(" ")[2] or "lanes"): r for r in rows if r["what"].startswith("busy")}
  found = {}
  for (what, kind), row in seconds.items():
    quiet, name = seconds["busy_0", kind], f"{what}_{kind.replace(' ', '_')}"
    found[name] = f"{row['seconds'] / quiet['seconds']:.2f}"
    found[f"{what}_release"] = f"{row['before_seconds'] / quiet['before_seconds']:.2f}"
  return found


def _variant_figures(stored):
  """Variants of cifar10 relative to the plain model, each measured in turn with it."""
  found = {}
  for rows, key, plain, other, name in zip(
    _results(stored, "model")[1:],
    ("variant", "variant", "precision"),
    ("plain", "plain", "float32"),
    ("baseline", "remat=true", "bfloat16"),
    ("baseline", "remat", "bfloat16"),
    strict=True,
  ):
    for what in dict.fromkeys(r["what"] for r in rows):
      first, second = (next(r for r in rows if (r["what"], r[key]) == (what, value)) for value in (plain, other))
      found |= _ratios(f"{name}_{what}", second, first)
  return found


def _growth_figures(stored):
  found = {}
  for name, rows in growth.by_quantity(_results(stored, "growth")[0]).items():
    for cost, word in (("ms_step", "time"), ("tensors_gib", "tensors")):
      exponent, key = growth.exponent(rows, cost), f"growth_{name.replace(' ', '_')}_{word}"
      found |= {key: f"{exponent:.2f}", f"{key}_of_twice": f"{2**exponent:.1f}"}
  return found


def _inverse_figures(stored):
  result = _results(stored, "inverse")[0]
  small, cifar10 = result["sampling"]
  found = {"sampling_small": f"{small['ratio']:.2f}", "sampling_cifar10": f"{cifar10['ratio']:.2f}"}
  for row in result["solvers"]:
    name = row["solver"].translate(str.maketrans(" ", "_", "(),"))
    found[f"solver_{name}"] = f"{row['median']:.0f} / {row['max']}"
  return found


def _input_figures(stored):
  result = _results(stored, "input_pipeline")[0]
  mirrored = [row for row in result["pipelines"] if row["flip"]]
  return {
    **{f"input_{row['source'].split()[0].strip(',')}": f"{row['images_per_second']:,}" for row in mirrored},
    "input_step": f"{max(row['step_s'] for row in result['waiting']):.1f}",
    "input_waiting": f"{max(row['waiting_percent'] for row in result['waiting']):.3f} %",
  }


def days_of_cifar10():
  """Days of one GPU for all steps of the flag file, in float32 or TF32: a lower bound on paper, see scaling.py."""
  found, steps = {}, scaling.flag_of("cifar10", "steps")
  for name, counted, gpu, precision, peak in scaling.cases(json.loads(scaling.COUNTS.read_text())["counted"]):
    if name == "cifar10" and precision != "bfloat16":
      parts = scaling.step_seconds(counted, gpu, peak, scaling.flag_of(name, "batch_size"), 1)
      found[f"cifar10_days_{gpu.name.split()[0].lower()}"] = f"{steps * scaling.total_seconds(parts) / 86400:.0f}"
  return found


def _kept_figures():
  """Megabytes per image that are kept for the gradient."""
  name = lambda model: model.translate(str.maketrans(" =", "__"))
  return {f"kept_{name(r['model'])}": f"{r['mb_image']:.3g}" for r in counts.stored().values()}


def _ratios(name, other, first):
  """Time and memory of one row relative to those of another."""
  keys = {"time": "ms_image", "memory": "peak_gib"}
  return {f"{name}_{word}": f"{other[key] / first[key]:.2f}" for word, key in keys.items()}

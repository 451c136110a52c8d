"""All benchmarks, and the tables and figures of the pages.

python benchmarks/run_all.py                       measures all, more than an hour
python benchmarks/run_all.py --only=model,growth   these parts again
python benchmarks/run_all.py --only=race --release=/tmp/release   beside the authors' release, see race.py
python benchmarks/run_all.py --only=ablations_digits --runs=/tmp/runs   fifteen runs, kept and resumed in that folder
python benchmarks/run_all.py --write               measures nothing: tables of what is stored

The figures are kept in benchmarks/results.json: of each part the commands, what they wrote, and the machine.
A table is written between the marks `<!-- table NAME -->` and `<!-- end -->` of a page, a figure in a sentence between
`<!-- figure NAME -->` and `<!-- end -->`. Then `python docs/pictures` draws the pictures that show it.
"""

import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

from absl import app, flags

import ablations
import counts
import figures
import growth
import race
import scaling
from tables import markdown, with_figures, with_tables

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
PAGES = tuple(
  path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path not in scaling.PAGES
)

# Scripts and flags of each part. What is compared is measured by one command, in turn.
PARTS = {
  "model": (
    "model.py --configs={config} --batches=4,8 --threads=1,2",
    "model.py --configs={config} --batches=4 --threads=2 --what=train,sample --variant=plain --variant=baseline",
    "model.py --configs={config} --batches=8 --threads=2 --what=train --variant=plain --variant=remat=blocks",
    "model.py --configs={config} --batches=4 --threads=2 --what=train,evaluate --precision=float32,bfloat16",
  ),
  "race": ("race.py --release={release}",),
  "race_without_onednn": ("race.py --release={release} --noonednn",),  # TensorFlow's default without AVX-512
  "turns": ("race.py --other={other}",),
  "turns_without_amx": ("race.py --other={other}",),  # the same on a processor without matrix units
  "first_step": ("first_step.py --config={config}",),
  "kernels": ("kernels.py --config={config}",),
  "growth": ("growth.py",),
  "large_batches": (
    "model.py --configs=photos --batches=4,32,128 --what=train --threads=2 --repeats=3",
    "model.py --configs={config} --batches=4,32 --what=train --threads=2 --repeats=3",
    "model.py --configs={config} --batches=4,32 --what=train --threads=2 --repeats=3 --variant=remat=blocks",
    "model.py --configs={config} --batches=128 --what=train --threads=2 --repeats=2 --variant=remat=blocks",
    "model.py --configs=celeba128_5bit --batches=1,4 --what=train --threads=2 --repeats=3 --variant=remat=blocks",
  ),
  "inverse": ("inverse.py",),
  "input_pipeline": ("input_pipeline.py --config={config}",),
  "vector_flows": ("vector_flows.py",),
  "codec_speed": ("codec_speed.py",),
  "ablations_digits": ("ablations.py --data=digits --runs={runs}/ablations_digits",),
  "ablations_fashion_mnist": (
    "ablations.py --data=fashion_mnist --steps=2000 --validate_every=250 --runs={runs}/ablations_fashion_mnist",
  ),
}
NEEDS = {  # flags without a default
  "race": "release",
  "race_without_onednn": "release",
  "ablations_digits": "runs",
  "ablations_fashion_mnist": "runs",
}


def run(command):
  """What a command of PARTS writes as its `--output`."""
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
  """Processor, cores, memory and versions, as a dict."""
  processor = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
  versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "tensorflow-probability")}
  return dict(
    processor=processor[1] if processor else platform.machine(),
    cores=len(os.sched_getaffinity(0)),
    memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
    python=platform.python_version(),
    **versions,
  )


def measured(parts, **places):
  """The results of parts, as they are stored; `places` are what their commands have in braces."""
  return {
    part: dict(
      machine=machine(),
      runs=[dict(command=command, result=run(command)) for command in (text.format(**places) for text in PARTS[part])],
    )
    for part in parts
  }


def results(stored, part):
  """What the commands of a part wrote, in order; none if it is not stored."""
  return [entry["result"] for entry in stored.get(part, {"runs": []})["runs"]]


def machine_table(stored):
  yield "measured", "processor", "cores", "memory", "versions"
  parts = {}
  for part, content in stored.items():
    parts.setdefault(json.dumps(content["machine"]), []).append(part)
  for text, names in parts.items():
    m = json.loads(text)
    yield (
      ", ".join(names),
      m["processor"],
      str(m["cores"]),
      f"{m['memory_gib']} GiB",
      f"Python {m['python']}, TensorFlow {m['tensorflow']}, Keras {m['keras']}, TFP {m['tensorflow-probability']}",
    )


def performance_table(stored):
  yield (
    "model",
    "",
    "batch",
    "cores",
    "ms an image",
    "spread",
    "share of the matmul rate",
    "peak GiB",
    "s to the first",
  )
  for rows in results(stored, "model")[:1]:
    for r in rows:
      yield (
        r["config"],
        r["what"],
        str(r["batch"]),
        str(r["threads"]),
        _digits(r["ms_image"]),
        f"{r['spread_percent']:.0f} %",
        f"{100 * r['share_of_matmul']:.0f} %",
        f"{r['peak_gib']:.2f}",
        f"{r['first_s']:.0f}",
      )


def ratios_table(stored):
  """Of each command that compares: the second of its variants or precisions beside the first."""
  yield ("", "beside", "", "batch", "ms an image", "beside it", "time, ratio", "peak GiB", "beside it", "memory, ratio")
  for rows in results(stored, "model")[1:]:
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


def turns_table(stored):
  """This version beside the one before lanes, and by way of it beside the release; see peers.json."""
  yield (
    "processor",
    "model",
    "",
    "batch",
    "cores",
    "precision",
    "ms an image",
    "spread",
    "beside e3bb91b in float32",
    "beside the release",
    "peak GiB",
    "peak GiB of e3bb91b",
  )
  known = {(r["what"], r["batch"], r["threads"]): r["to_release"] for r in figures.PEERS["rows"]}
  for part in ("turns", "turns_without_amx"):
    for r in itertools.chain(*results(stored, part)):
      by_release = (part, r["config"]) == ("turns", "cifar10")  # it was measured on a processor with AMX
      release = known.get((r["what"], r["batch"], r["threads"])) if by_release else None
      yield (
        stored[part]["machine"]["processor"],
        r["config"],
        r["what"],
        str(r["batch"]),
        str(r["threads"]),
        r["precision"],
        _digits(r["ms_image"]),
        f"{r['spread_percent']:.0f} %",
        f"{r['ratio']:.2f}",
        f"{r['ratio'] * release:.2f}" if release else "",
        f"{r['peak_gib']:.2f}",
        f"{r['before_peak_gib']:.2f}",
      )


def race_table(stored, part="race"):
  """This version beside the authors' release; see race.py."""
  head, *measured = race.table(itertools.chain(*results(stored, part)))
  yield head
  yield from measured or [("not measured yet", *[""] * (len(head) - 1))]


def peers_table(stored):
  del stored  # constant
  yield "", "batch", "cores", "version 1638286", "beside the release", "beside PyTorch"
  for r in figures.PEERS["rows"]:
    yield (
      r["what"],
      str(r["batch"]),
      str(r["threads"]),
      f"{r['ours_ms_image']} ms an image",
      f"{r['to_release']:.2f}",
      f"{r['to_pytorch']:.2f}",
    )
  for r in figures.PEERS["memory"]:
    yield (
      "peak memory, training",
      str(r["batch"]),
      "2",
      f"{r['ours_gib']:.2f} GiB",
      f"{r['to_release']:.2f}",
      f"{r['to_pytorch']:.2f}",
    )
  first = figures.PEERS["first_step"]
  yield (
    f"start to first step, {first['init_batch']} images initialise",
    "4",
    str(first["threads"]),
    f"{first['ours_s']} s",
    f"{first['to_release']:.2f}",
    "",
  )


def counts_table(stored):
  del stored  # they are in a file of their own
  yield (
    "model",
    "operations of the graph",
    "kernels of a pass",
    "kernels with compiled blocks",
    "MB an image kept for the gradient",
  )
  for r in counts.stored().values():
    yield (
      r["model"],
      f"{r['operations']:,}",
      f"{r['kernels']:,}",
      f"{r['compiled_kernels']:,}" if r["compiled_kernels"] else "",
      _digits(r["mb_image"]),
    )


def first_step_table(stored):
  yield (
    "config",
    "batch",
    "initialised on",
    "cores",
    "imports, s",
    "model and data",
    "initialisation",
    "tracing and first step",
    "all, s",
  )
  for rows in results(stored, "first_step"):
    for r in rows:
      yield (
        r["config"],
        str(r["batch"]),
        f"{r['init_batch']} images",
        str(r["threads"]),
        *(f"{r[f'{part}_s']:.1f}" for part in ("import", "build", "initialise", "first_step", "total")),
      )


def kernels_table(stored):
  yield "", "what for", "share of the time", "ms an image", "kernels", "GFLOP/s", "share of the matmul rate"
  for rows in results(stored, "kernels"):
    for r in rows:
      yield (
        r["what"],
        r["purpose"],
        f"{r['percent']:.1f} %",
        _digits(r["ms_image"]),
        f"{r['kernels']:,}" if r["kernels"] else "",
        *((f"{r['gflops']:.0f}", f"{100 * r['share_of_matmul']:.0f} %") if r["gflops"] else ("", "")),
      )


def growth_table(stored):
  yield "quantity", "values", "ms a step", "exponent", "GiB of tensors", "exponent", "peak GiB"
  for rows in results(stored, "growth"):
    for name, group in growth.by_quantity(rows).items():
      column = lambda key, text: ", ".join(text(r[key]) for r in group)
      yield (
        name,
        column("value", str),
        column("ms_step", _digits),
        f"{growth.exponent(group, 'ms_step'):.2f}",
        column("tensors_gib", "{:.2f}".format),
        f"{growth.exponent(group, 'tensors_gib'):.2f}",
        column("peak_gib", "{:.2f}".format),
      )


def large_batches_table(stored):
  """Time and memory of an image in a training step, its time beside that in the first batch of its model."""
  yield "model", "batch", "remat", "ms an image", "spread", "of the first batch", "MB of tensors an image", "peak GiB"
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


def solvers_table(stored):
  yield "couplings of", "solver", "evaluations, median", "most", "error", "eager ms", "graph ms", "XLA ms"
  for result in results(stored, "inverse"):
    for r in result["solvers"]:
      yield (
        r["mixtures"],
        r["solver"],
        f"{r['median']:.0f}",
        str(r["max"]),
        f"{r['error']:.1e}",
        *(_digits(r[f"{way}_ms"]) for way in ("eager", "graph", "xla")),
      )


def sampling_table(stored):
  yield "model", "images", "sampling, ms", "density, ms", "ratio"
  for result in results(stored, "inverse"):
    for r in result["sampling"]:
      yield (r["model"], str(r["images"]), _digits(r["sample_ms"]), _digits(r["density_ms"]), f"{r['ratio']:.2f}")


def pipelines_table(stored):
  yield "images of 32x32", "mirrored", "images/s"
  for result in results(stored, "input_pipeline"):
    for r in result["pipelines"]:
      yield r["source"], "half" if r["flip"] else "none", f"{r['images_per_second']:,}"


def waiting_table(stored):
  yield "model", "images", "batch", "s a step", "ms waiting", "share"
  for result in results(stored, "input_pipeline"):
    for r in result["waiting"]:
      yield (
        r["model"],
        r["images"],
        str(r["batch_size"]),
        f"{r['step_s']:.2f}",
        f"{r['wait_ms']:.2f}",
        f"{r['waiting_percent']:.3f} %",
      )


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
  yield "data", "flow", "held-out nats, +- over seeds", "", "seeds", "CPU ms a step", "hours of two cores"
  for result in results(stored, "vector_flows"):
    for r in result["rows"]:
      yield (
        r["data"],
        r["flow"],
        f"{r['nats']:.3f} +- {r['error']:.3f}" if r["seeds"] > 1 else f"{r['nats']:.3f}",
        r["verdict"],
        str(r["seeds"]),
        _digits(r["cpu_ms"]) if r["cpu_ms"] else "",
        f"{r['hours']:.3f}",
      )


TABLES = dict(
  machine=machine_table,
  race=race_table,
  race_without_onednn=functools.partial(race_table, part="race_without_onednn"),
  turns=turns_table,
  peers=peers_table,
  counts=counts_table,
  performance=performance_table,
  ratios=ratios_table,
  first_step=first_step_table,
  kernels=kernels_table,
  growth=growth_table,
  large_batches=large_batches_table,
  solvers=solvers_table,
  sampling=sampling_table,
  pipelines=pipelines_table,
  waiting=waiting_table,
  vector_flows=vector_flows_table,
  codec_speed=codec_speed_table,
  **{part: functools.partial(ablations_table, part=part) for part in PARTS if part.startswith("ablations_")},
  **figures.TABLES,
)


def tables(stored):
  """All tables as Markdown, by name."""
  return {name: markdown(list(table(stored))) for name, table in TABLES.items()}


def written(pages, stored):
  """The pages, a `dict` of texts by their path, with the tables and figures of stored results."""
  return with_figures(with_tables(pages, tables(stored)), figures.figures(stored))


def _digits(value):
  """Three of them, without an exponent."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def define_flags():
  """The script's flags; a function, as tests import this file."""
  flags.DEFINE_list(
    "only", [part for part in PARTS if part not in NEEDS], f"Parts to measure, any of {', '.join(PARTS)}."
  )
  flags.DEFINE_string("config", "cifar10", "Model of the parts that are of one.")
  flags.DEFINE_string("other", "/tmp/before", "Checkout of the version that the turns are beside.")
  flags.DEFINE_string("release", None, "Checkout of the authors' release, for the race with it.")
  flags.DEFINE_string("runs", None, "Folder of the ablations' runs.")
  flags.DEFINE_bool("write", False, "Measure nothing; write tables of what is stored.")


def main(argv):
  del argv
  unknown = set(FLAGS.only) - set(PARTS)
  if unknown:
    raise app.UsageError(f"--only takes {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
  for part in FLAGS.only:
    if part in NEEDS and not FLAGS[NEEDS[part]].value:
      raise app.UsageError(f"--only={part} takes --{NEEDS[part]}, see benchmarks/{PARTS[part][0].split()[0]}")
  stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  if not FLAGS.write:
    for part in FLAGS.only:  # each is kept, should the next one fail
      stored |= measured([part], **{name: FLAGS[name].value for name in ("config", "other", "release", "runs")})
      RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
  for path, text in written({path: path.read_text() for path in PAGES}, stored).items():
    path.write_text(text)


if __name__ == "__main__":
  define_flags()
  app.run(main)

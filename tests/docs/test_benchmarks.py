"""The benchmarks' arithmetic, and the pages against the figures that are stored."""

import json
import types

from absl import app
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import counts
import elpv_codecs
import elpv_defects
import figures
import growth
import kernels
import model
import model_counts
import run_all
import seams
from support.marks import exhaustive
from tables import with_figures, with_tables

pytestmark = pytest.mark.docs

STORED = json.loads(run_all.RESULTS.read_text())


def test_the_pages_hold_the_tables_and_figures_of_the_stored_results():
  pages = {path: path.read_text() for path in run_all.PAGES}
  assert run_all.written(pages, STORED) == pages
  assert set(STORED) <= set(run_all.PARTS)


def test_figures_that_two_pages_name_are_written_not_typed():
  """What once contradicted a table: the ratio of sampling, the constant part of an archive, ratios of the README."""
  places = {
    "docs/numerics.md": ("sampling_cifar10", "sampling_small"),
    "docs/performance.md": ("sampling_cifar10", "remat_train_time", "bfloat16_train_time"),
    "docs/compression.md": ("digits_constant_share", "digits_training_constant_share"),
    "README.md": ("release_train", "release_sample", "release_memory", "baseline_train_time", "digits_run_single_2"),
  }
  for page, names in places.items():
    text = (run_all.ROOT / page).read_text()
    for name in names:
      assert f"<!-- figure {name} -->" in text, (page, name)


def test_a_figure_goes_between_its_marks_in_a_sentence_or_a_cell():
  place = "<!-- figure {} -->{{}}<!-- end -->"
  text = f"It takes {place} of {place}.\n| {place} |\n".format("a", "b", "a")
  page, expected = text.format("1", "", "9"), text.format("2", "3", "2")
  assert with_figures({"page": page}, dict(a="2", b="3", c="")) == {"page": expected}
  with pytest.raises(ValueError, match="page has a place for a figure 'b', which is none of a"):
    with_figures({"page": page}, dict(a="2"))
  with pytest.raises(ValueError, match="page has a figure without '<!-- end -->' in its line"):
    with_figures({"page": "<!-- figure a -->1\n<!-- end -->"}, dict(a="2"))


def test_figures_of_presets_and_archives_follow_from_what_is_stored():
  found = figures.figures(STORED)
  evaluated = json.loads((figures.PRESETS / "digits" / "evaluation.json").read_text())["test"]["bounds"]
  assert found["digits_single"] == f"{evaluated[0]['bits_per_dim']:.3f}"
  assert found["digits_archive"] == f"{8 * 3120 / (180 * 64):.3f}"  # bytes of 180 images of 8x8
  assert found["digits_training_constant_share"] == f"{100 * 600 / 21078:.1f} %"
  assert found["label_bits"] == "0.052"  # log2(10) bits on 64 pixels


def test_a_table_goes_between_its_marks_and_the_rest_stays():
  page = "before\n<!-- table a -->\nold\n<!-- end -->\nafter\n<!-- table b -->\n<!-- end -->\n"
  assert with_tables({"page": page, "other": "text"}, dict(a="| x |", b="| y |")) == {
    "page": page.replace("old", "| x |").replace("<!-- table b -->\n", "<!-- table b -->\n| y |\n"),
    "other": "text",
  }
  with pytest.raises(ValueError, match="no place for a table marked '<!-- table c -->' .* in page or other"):
    with_tables({"page": page, "other": "text"}, dict(a="", b="", c=""))
  with pytest.raises(ValueError, match="page has a place for a table 'b', which is none of a"):
    with_tables({"page": page}, dict(a=""))


def test_ratios_are_of_what_one_command_measured_side_by_side():
  row = dict(
    config="c", what="train", batch=4, threads=2, precision="float32", variant="plain", ms_image=10.0, peak_gib=2.0
  )
  rows = [row, {**row, "variant": "baseline", "ms_image": 25.0, "peak_gib": 3.0}, {**row, "what": "sample"}]
  stored = dict(model=dict(runs=[dict(result=[]), dict(result=rows)]))
  _, *table = run_all.ratios_table(stored)
  assert table == [("baseline", "plain", "train", "4", "25", "10", "2.50", "3.00", "2.00", "1.50")]


def test_bytes_of_codecs_are_those_of_their_files(monkeypatch):
  pictures, labels = np.zeros([3, 7, 7, 1], np.uint8), np.array([0, 4, 4])
  dataset = types.SimpleNamespace(test=pictures, labels_of=lambda split: labels)
  monkeypatch.setattr(elpv_codecs, "load_dataset", lambda name, labels: dataset)
  monkeypatch.setattr(elpv_codecs, "codecs", lambda: {"a": lambda picture: bytes(21)})
  assert [row["bytes"] for row in elpv_codecs.rows()] == [63]  # 8 * 21 / 49 bits per pixel, times 3 * 49 / 8, is less


def test_maps_of_other_weights_are_not_taken_from_the_cache(monkeypatch, tmp_path):
  made = []
  monkeypatch.setattr(elpv_defects, "maps_of", lambda workdir, pictures: made.append(workdir.path.name) or pictures + 1)
  pictures = {"train": np.zeros(1), "validation": np.zeros(2), "test": np.zeros(3)}
  for name in ("digits", "photos", "digits"):
    monkeypatch.setattr(elpv_defects, "FLAGS", types.SimpleNamespace(model=name, cache=f"{tmp_path}/a"))
    maps = elpv_defects.maps_of_splits(pictures)
    assert {split: array.tolist() for split, array in maps.items()} == {"validation": [1, 1], "test": [1, 1, 1]}
  assert made == ["digits", "digits", "photos", "photos"]


def test_seams_are_those_of_tiles_that_see_their_neighbours(monkeypatch):
  monkeypatch.setattr(seams, "FLAGS", types.SimpleNamespace(workdir=figures.PRESETS / "digits", tiles=10))
  with pytest.raises(app.UsageError, match="digits is a run of a model without tile_neighbours"):
    seams.main([])


def test_the_exponent_of_a_power_is_found():
  rows = [dict(value=v, ms_step=3 * v**1.5) for v in (1, 2, 4, 8)]
  assert growth.exponent(rows, "ms_step") == pytest.approx(1.5)


def test_a_variant_changes_fields_of_any_kind():
  case = model.Case(
    "digits",
    "train",
    4,
    1,
    variant=(
      "jit cpu_splits=1 jit=blocks remat=blocks dropout=0.1 blocks=2 image_shape=64,64,3 structure=squeeze,columns:2"
    ),
  )
  assert case.words == ["jit"] and case.process == dict(cpu_splits=1, jit="blocks")
  assert case.changes == dict(
    remat="blocks", dropout=0.1, blocks=2, image_shape=(64, 64, 3), structure="squeeze,columns:2"
  )


@pytest.mark.slow
@pytest.mark.parametrize("what", model.WHAT)
def test_everything_that_is_measured_runs(what):
  case = model.Case(
    "digits",
    what,
    2,
    1,
    variant=(
      "filters=4 blocks=1 components=2 dequant_filters=4 context_channels=4 structure=columns:1 "
      "dequant_structure=columns:1"
    ),
  )
  assert model.seconds_of(model.build(case)) > 0


def test_time_of_a_kernel_is_without_that_of_kernels_within():
  spans = [
    (0, 100, "call:PartitionedCall"),
    (10, 40, "a:MatMul"),
    (40, 90, "inner:PartitionedCall"),
    (50, 70, "b:Mul"),
    (100, 130, "c:Add"),
  ]
  times = {kernel.name: round(1e12 * kernel.seconds) for kernel in kernels._own_times(spans)}
  assert times == {"call:PartitionedCall": 20, "a:MatMul": 30, "inner:PartitionedCall": 30, "b:Mul": 20, "c:Add": 30}


def test_a_profile_has_the_kernels_of_called_functions_once():
  multiply = tf.function(lambda x: tf.matmul(x, x), autograph=False, experimental_attributes={"_noinline": True})
  noise = lambda: tf.raw_ops.RandomStandardNormal(shape=[300, 300], dtype=tf.float32)
  run = tf.function(lambda: tf.sin(multiply(multiply(noise()))), autograph=False)
  run()
  found, seconds = kernels.profiled(lambda: run().numpy())
  purposes = [kernels.purpose(kernel.name) for kernel in found]
  assert purposes.count("1x1 layers") == 2 and purposes.count("elementwise") == 1
  assert 0 < sum(kernel.seconds for kernel in found) <= seconds
  products = model_counts.products(run.get_concrete_function().graph.get_operations())
  assert [(op.type, flops) for op, flops in products] == 2 * [("MatMul", 2 * 300**3)]


def test_kernels_of_a_gpu_are_those_of_its_streams():
  space = xplane_pb2.XSpace()
  for plane_name, line_name in (
    ("/device:GPU:0", "Stream #7(Compute)"),
    ("/device:GPU:0", "XLA Modules"),
    ("/host:CPU", "Stream #7(Compute)"),
  ):
    plane = space.planes.add(name=plane_name)
    line = plane.lines.add(name=line_name)
    for i, name in enumerate(("gemm", "fusion_3", "MemcpyD2H", "gemm")):
      plane.event_metadata[i].name = name
      line.events.add(metadata_id=i, duration_ps=10 ** (9 + i))
  assert kernels.gpu_kernels(space) == (3, pytest.approx(1e-3 + 1e-2 + 1))


def test_figures_beside_the_release_are_those_of_the_race_once_there_is_one():
  row = lambda what, batch, ratio, **changes: (
    dict(what=what, batch=batch, ratio=ratio, precision="float32", threads=2, peak_gib=3.0, before_peak_gib=8.0)
    | changes
  )
  rows = [
    *(
      row("train", 4, 0.571, peak_gib=3.561),
      row("train", 4, 0.1, precision="bfloat16"),
      row("train", 4, 0.2, threads=1),
    ),
    *(row("evaluate", 4, 0.7), row("evaluate_dynamic", 4, 0.8), row("sample", 4, 0.39)),
    *(row("train", 8, 0.5), row("start", 4, 0.34)),
  ]
  found = figures.figures(STORED | dict(race=dict(runs=[dict(result=rows)])))
  names = ("train", "evaluate", "sample", "memory", "memory_gib", "first_step")
  assert [found[f"release_{name}"] for name in names] == ["0.57", "0.70", "0.39", "0.45", "3.56", "0.34"]


@pytest.mark.parametrize(
  "name, purpose",
  [
    ("cond/then/_0/cond/adam/Sub_763:Sub", "update of the weights"),
    (
      "flow_step_2_coupling/inverse/logit_mixture_logistic_cdf/inverse/while/cond/_4/Less:Less",
      "inverse of the mixtures",
    ),
    ("flow_step_2_invertible_conv/forward/einsum/Einsum:_MklEinsum", "invertible 1x1 convolutions"),
    ("gradient_tape/block_0_1/conv_1/Conv2DBackpropFilter:_MklNativeConv2DBackpropFilter", "3x3 convolutions"),
    ("block_0_1/mixer_1/einsum/Einsum:_MklEinsum", "attention products"),
    ("block_0_1/mixer_1/Tensordot/MatMul:_MklMatMul", "1x1 layers"),
    ("block_0_1/conv_1/output_projection_1/pointwise/BiasAdd:_MklNativeConv2DWithBias", "1x1 layers"),
    ("AddV2_7:AddV2", "elementwise"),
  ],
)
def test_kernels_are_known_by_name_and_type(name, purpose):
  assert kernels.purpose(name) == purpose


@pytest.mark.slow
@pytest.mark.parametrize("name", [exhaustive(name) if name == "cifar10" else name for name in counts.QUICK])
def test_a_step_has_no_more_operations_kernels_or_kept_tensors_than_is_written_down(name):
  stored, found = counts.stored()[name], counts.count(name)
  for key in ("operations", "kernels", "mb_image"):
    assert 0.95 * stored[key] <= found[key] <= 1.05 * stored[key], (
      f"{key} of {name}: {found[key]}, {stored[key]} before; if that is meant, python benchmarks/counts.py --write"
    )

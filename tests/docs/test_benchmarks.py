"""The benchmarks' arithmetic, and the pages against the results that are stored."""

import json

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf.config.size import model_size
from flowpp_tf.config.structure import parse_structure
import model
import plain_codecs
import run_all
from support.programs import ROOT
from support.runs import TINY_MODEL
from tables import filled, results, stored_results

pytestmark = pytest.mark.docs

STORED = stored_results()


def test_the_pages_hold_the_tables_and_figures_of_the_stored_results():
  pages = {path: path.read_text() for path in run_all.PAGES}
  assert run_all.written(pages, STORED) == pages
  assert set(STORED) == {*run_all.PARTS, *run_all.ONCE}


def test_figures_that_two_pages_name_are_written_not_typed():
  """What once contradicted a table: the constant part of an archive, ratios of the README."""
  places = {
    "docs/performance.md": ("remat_train_time", "bfloat16_train_time"),
    "docs/compression.md": ("digits_constant_share", "digits_training_constant_share"),
    "README.md": ("release_train", "release_sample", "release_memory", "baseline_train_time", "digits_run_single_2"),
  }
  for page, names in places.items():
    text = (ROOT / page).read_text()
    for name in names:
      assert f"<!-- figure {name} -->" in text, (page, name)


def test_a_figure_goes_between_its_marks_in_a_sentence_or_a_cell():
  place = "<!-- figure {} -->{{}}<!-- end -->"
  text = f"It takes {place} of {place}.\n| {place} |\n".format("a", "b", "a")
  page, expected = text.format("1", "", "9"), text.format("2", "3", "2")
  assert filled({"page": page}, {}, dict(a="2", b="3", c="")) == {"page": expected}
  with pytest.raises(ValueError, match="page has a place for a figure 'b', which is none of a"):
    filled({"page": page}, {}, dict(a="2"))
  with pytest.raises(ValueError, match="page has a figure 'a' without '<!-- end -->' in its line"):
    filled({"page": "<!-- figure a -->1\n<!-- end -->"}, {}, dict(a="2"))
  with pytest.raises(ValueError, match="page has a table or figure without '<!-- end -->'"):
    filled({"page": "<!-- figure a -->1\n"}, {}, dict(a="2"))


def test_figures_of_presets_and_archives_follow_from_what_is_stored():
  found = run_all.figures(STORED)
  evaluated = json.loads((run_all.PRESETS / "digits" / "evaluation.json").read_text())["test"]["bounds"]
  assert found["digits_single"] == f"{evaluated[0]['bits_per_dim']:.3f}"
  split = run_all.archives(STORED, "train")["digits"]
  assert found["digits_training_archive"] == f"{8 * split['bytes'] / (split['images'] * 64):.3f}"  # of 8x8 values
  assert found["digits_training_constant_share"] == f"{100 * 600 / split['bytes']:.1f} %"
  assert found["label_bits"] == "0.052"  # log2(10) bits on 64 pixels


def test_a_table_goes_between_its_marks_and_the_rest_stays():
  page = "before\n<!-- table a -->\nold\n<!-- end -->\nafter\n<!-- table b -->\n<!-- end -->\n"
  assert filled({"page": page, "other": "text"}, dict(a="| x |", b="| y |"), {}) == {
    "page": page.replace("old", "| x |").replace("<!-- table b -->\n", "<!-- table b -->\n| y |\n"),
    "other": "text",
  }
  with pytest.raises(ValueError, match="no place for a table marked '<!-- table c -->' in page or other"):
    filled({"page": page, "other": "text"}, dict(a="", b="", c=""), {})
  with pytest.raises(ValueError, match="page has a place for a table 'b', which is none of a"):
    filled({"page": page}, dict(a=""), {})


def test_ratios_are_of_what_one_command_measured_side_by_side():
  row = dict(
    config="c", what="train", batch=4, threads=2, precision="float32", variant="plain", ms_image=10.0, peak_gib=2.0
  )
  rows = [row, {**row, "variant": "baseline", "ms_image": 25.0, "peak_gib": 3.0}, {**row, "what": "sample"}]
  stored = dict(model=dict(runs=[dict(result=rows)]))
  _, *table = run_all.ratios_table(stored)
  assert table == [("baseline", "plain", "train", "4", "25", "10", "2.50", "3.00", "2.00", "1.50")]


def test_bytes_of_codecs_are_those_of_their_files(monkeypatch):
  picture = np.zeros([7, 7], np.uint8)
  monkeypatch.setattr(plain_codecs, "codecs", lambda: {"a": (lambda picture: bytes(21), lambda data: picture)})
  (row,) = plain_codecs.rows([picture] * 3)
  assert (row["bytes"], row["bits/pixel"]) == (63, f"{8 * 21 / 49:.3f}")


def test_a_variant_changes_fields_of_any_kind():
  case = model.Case(
    "digits",
    "train",
    4,
    1,
    variant=(
      "baseline cpu_splits=1 jit=blocks remat=blocks dropout=0.1 blocks=2 image_shape=64,64,3 "
      "structure=squeeze,columns:2"
    ),
  )
  assert case.words == ["baseline"] and case.process == dict(cpu_splits=1, jit="blocks")
  assert case.changes == dict(
    remat="blocks", dropout=0.1, blocks=2, image_shape=(64, 64, 3), structure="squeeze,columns:2"
  )


@pytest.mark.slow
@pytest.mark.parametrize("what", model.WHAT)
def test_everything_that_is_measured_runs(what):
  variant = " ".join(f"{name}={value}" for name, value in TINY_MODEL.items())
  case = model.Case("digits", what, 2, 1, variant=variant)
  assert model.seconds_of(model.build(case)) > 0


def test_figures_relative_to_the_release_are_those_of_two_cores_in_float32():
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
    *(row("evaluate", 4, 0.7), row("sample", 4, 0.39)),
    *(row("train", 8, 0.5), row("start", 4, 0.34)),
  ]
  found = run_all.figures(STORED | dict(race=dict(runs=[dict(result=rows)])))
  names = ("train", "evaluate", "sample", "memory", "first_step")
  assert [found[f"release_{name}"] for name in names] == ["0.57", "0.70", "0.39", "0.45", "0.34"]


def forward_flops(config):
  """An image's, layer by layer from the paper's description, without a graph."""

  def mixer(pixels, filters, attention):  # in, out; of attention the scores and their use
    return filters * 3 * filters + filters * 2 * filters + attention * 2 * pixels * filters

  def conditioner(stage, filters, blocks, mixing, context):
    height, width, channels = stage.split_shape
    half, pixels = channels // 2, height * width
    outputs = half * (2 + 3 * config.components)
    block = 9 * 2 * filters * filters + 2 * filters * 2 * filters + 2 * context * filters
    if mixing:
      block += mixer(pixels, filters, config.attention)
    mixing_1x1 = channels * channels if config.invertible_conv == "dense" else 0
    return pixels * (
      mixing_1x1 + 9 * half * filters + blocks * block + 9 * filters * (2 if config.output_concat_elu else 1) * outputs
    )

  def flow(structure, *arguments):
    return sum(
      stage.couplings * conditioner(stage, *arguments)
      for stage in parse_structure(structure, config.image_shape)
      if stage.kind != "squeeze"
    )

  height, width, channels = config.image_shape
  pixels, context = height * width // 2, config.context_channels
  block = 9 * 2 * context * context + 9 * 2 * context * 2 * context
  if config.context_attention:
    block += mixer(pixels, context, True)
  density = flow(config.structure, config.filters, config.blocks, True, 0)
  if config.dequantization == "uniform":
    return 2 * density
  return 2 * (
    density
    + flow(config.dequant_structure, config.dequant_filters, config.dequant_blocks, config.dequant_mixing, context)
    + pixels * (9 * 2 * channels * context + config.context_blocks * block)
  )


def attention_again_flops(config):
  """What attention's gradients take beside two products for each: queries times keys once more, and a
  column of sums beside each head's gradient. Of all layers, an image's."""

  def scores(structure, filters, blocks):
    pixels = [
      (stage.couplings, stage.split_shape[0] * stage.split_shape[1])
      for stage in parse_structure(structure, config.image_shape)
      if stage.kind != "squeeze"
    ]
    return sum(couplings * blocks * p * p * (filters + config.heads) for couplings, p in pixels)

  height, width, _ = config.image_shape
  context = config.context_channels + config.heads
  found = config.attention * scores(config.structure, config.filters, config.blocks)
  if config.dequantization == "variational":
    of_dequantizer = scores(config.dequant_structure, config.dequant_filters, config.dequant_blocks)
    found += config.attention * config.dequant_mixing * of_dequantizer
    found += config.context_attention * config.context_blocks * (height * width // 2) ** 2 * context
  return 2 * found


COSTS = {row["config"]: row for row in results(STORED, "costs")[0]["steps"]}


@pytest.mark.parametrize("name", COSTS)
def test_stored_costs_are_of_the_present_configs(name):
  costs, config = COSTS[name], fpp.get_config(name)
  assert costs["forward_flops_image"] == forward_flops(config)
  assert costs["parameters"] == model_size(config).parameters
  # The gradients by input and by kernel are a product of the forward one's size each, but none is
  # taken by the image that the context net reads.
  height, width, channels = config.image_shape
  input_conv = 2 * height * (width // 2) * 9 * 2 * channels * config.context_channels
  expected = 3 * costs["forward_flops_image"] + attention_again_flops(config)
  assert 0 <= expected - costs["training_flops_image"] <= input_conv


def test_hours_follow_from_operations_and_the_share_of_the_peak():
  row = dict(training_flops_image=1e9)
  assert run_all.hours_of_gpu(row, batch=64, steps=1000) == pytest.approx(64e12 / (0.05 * 494.5e12) / 3600)

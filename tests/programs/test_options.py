"""Options of commands: a dataclass that a notebook fills in, the flags made of it, and flag files."""

import dataclasses
import re

from absl import flags
import pytest

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.settings import Range, at_least, setting
from flowpp_tf.programs import command, options
from flowpp_tf.programs.compress import CompressOptions
from flowpp_tf.programs.decompress import DecompressOptions
from flowpp_tf.programs.evaluate import EvaluateOptions
from flowpp_tf.programs.options import Flag, Options, flags_in_groups, options_from_flags
from flowpp_tf.programs.sample import SampleOptions
from flowpp_tf.programs.train import TrainOptions


@dataclasses.dataclass(frozen=True)
class Some(Options):
  """Options that differ in type."""

  GROUP = "Some"
  ARGUMENTS = ("path",)

  path: str | None = setting(None, "A path.")
  counts: tuple[int, ...] | None = setting(None, "Numbers.", Range(len, "numbers"))
  rates: tuple[float, ...] | None = setting(None, "Rates.", Range(len, "rates"))
  size: int = setting(3, "A size.", at_least(1))
  loud: bool = setting(False, "Whether to print.")


@dataclasses.dataclass(frozen=True)
class More(Some):
  """Options that are added to others."""

  name: str | None = setting(None, "A name. (default: a)")


def test_flags_are_the_fields_in_their_order_below_the_title_of_their_class():
  assert flags_in_groups(More) == {
    "Some": [
      Flag("counts", tuple, "Numbers."),
      Flag("rates", tuple, "Rates."),
      Flag("size", int, "A size. (default: 3)"),
      Flag("loud", bool, "Whether to print."),
    ],
    "This command": [Flag("name", str, "A name. (default: a)")],
  }


@pytest.mark.parametrize(
  "arguments, expected",
  [
    (["--counts=1,2", "--size=4", "--loud", "a"], More("a", (1, 2), size=4, loud=True)),
    (["--name=b"], More(name="b")),
    (["--noloud"], More()),
    (["--counts=1,b"], "`counts` must be numbers, got 1,b"),
    (["--rates=1,nan"], "`rates` must be rates, got 1,nan"),
    (["--size=0"], "`size` must be at least 1, got 0"),
    (["--name="], "`name` is empty; leave it out, or give a value"),
    (["--name=a\0"], "`name` has a NUL character"),
  ],
)
def test_options_are_what_the_flags_give(arguments, expected, monkeypatch):
  values = flags.FlagValues()
  for flag in (flag for found in flags_in_groups(More).values() for flag in found):
    kind = {int: flags.DEFINE_integer, bool: flags.DEFINE_bool, str: flags.DEFINE_string, tuple: flags.DEFINE_list}
    kind[flag.kind](flag.name, None, flag.help, flag_values=values)
  monkeypatch.setattr(flags, "FLAGS", values)
  rest = values(["program", *arguments])
  if isinstance(expected, str):
    with pytest.raises(InputError, match=f"^{re.escape(expected)}"):
      options_from_flags(More, rest[1:])
  else:
    assert options_from_flags(More, rest[1:]) == expected


@pytest.mark.parametrize(
  "options, values, message",
  [
    (CompressOptions, dict(preset="digits", images=("a",)), "give --output, or --estimate"),
    (CompressOptions, dict(preset="digits", images="a"), "`images` must be a sequence of strings"),
    (
      DecompressOptions,
      dict(archive="a", output="b", preset="digits", workdir="c"),
      "give the model as --workdir, --preset or --model, one of them",
    ),
    (EvaluateOptions, dict(preset="digits", num_samples=(0,)), "`num_samples` must be positive integers"),
    (SampleOptions, dict(preset="digits", interpolate=("a", "b"), n=3), "`n` must be left out with --interpolate"),
    (TrainOptions, dict(quick="yes"), "`quick` must be True or False"),
  ],
)
def test_wrong_options_of_a_notebook_are_one_line(options, values, message):
  with pytest.raises(InputError, match=f"^{re.escape(message)}"):
    options(**values)


def test_options_of_training_replace_those_of_the_recipe():
  recipe = TrainOptions(config="digits", settings={"filters": 16}, epochs=2.0, image_size=16).recipe()
  assert recipe.config.filters == 16 and recipe.config.image_shape == (16, 16, 1)
  assert recipe.settings["epochs"] == 2.0 and "steps" not in recipe.settings
  config = TrainOptions(config="digits", labels=True, settings={"label_dropout": 0.1}).recipe().config
  assert (config.num_classes, config.label_dropout) == (1, 0.1)  # the data have the number
  config = TrainOptions(config="digits_by_class", labels=False).recipe().config
  assert (config.num_classes, config.label_dropout) == (0, 0.0)


@pytest.mark.parametrize(
  "of_file, arguments, expected",
  [
    ("--steps=5", ["FILE", "--epochs=400"], {"epochs": 400.0}),
    ("--steps=5", ["--epochs=400", "FILE"], {"epochs": 400.0}),
    ("--epochs=5", ["--steps", "4", "FILE"], {"steps": 4}),
    ("--precision=bfloat16", ["FILE", "--dtype=float32"], {"dtype": "float32"}),
    ("--steps=5", ["FILE", "--steps=6"], {"steps": 6}),
    ("--schedule=linear:1@5,hold", ["FILE", "--learning_rate=0.1"], {"learning_rate": 0.1}),
    ("--learning_rate=0.1", ["--schedule=hold:1", "FILE"], {"schedule": "hold:1"}),
    ("--learning_rate=0.1", ["--schedule=cosine", "FILE"], {"schedule": "cosine", "learning_rate": 0.1}),
    ("--learning_rate=0.1\n--schedule=hold:1", ["FILE"], {"schedule": "hold:1", "learning_rate": 0.1}),
    ("--steps=5", ["FILE"], {"steps": 5}),
    ("", ["FILE", "--steps=5", "--epochs=2"], {"steps": 5, "epochs": 2.0}),  # which a recipe refuses
    ("--steps=5\n--epochs=2", ["FILE"], {"steps": 5, "epochs": 2.0}),
  ],
)
def test_the_command_line_replaces_what_a_flag_file_says_otherwise(of_file, arguments, expected, tmp_path, monkeypatch):
  values = flags.FlagValues()
  flags.DEFINE_integer("steps", None, "", flag_values=values)
  for name in ("epochs", "learning_rate"):
    flags.DEFINE_float(name, None, "", flag_values=values)
  for name in ("schedule", "precision", "dtype", "flagfile"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  monkeypatch.setattr(flags, "FLAGS", values)
  (tmp_path / "some.flags").write_text(of_file)
  argv = ["train", *(f"--flagfile={tmp_path}/some.flags" if a == "FILE" else a for a in arguments)]
  values(argv)
  command.prefer_command_line(argv)
  given = {name: value for name, value in options.given_flags().items() if name != "flagfile"}
  assert given == expected

"""Flags of the command line against those of flag files that say the same."""

from absl import flags
import pytest

from flowpp_tf.programs import command, options


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
  flags.DEFINE_float("epochs", None, "", flag_values=values)
  flags.DEFINE_float("learning_rate", None, "", flag_values=values)
  flags.DEFINE_string("schedule", None, "", flag_values=values)
  flags.DEFINE_string("precision", None, "", flag_values=values)
  flags.DEFINE_string("dtype", None, "", flag_values=values)
  flags.DEFINE_string("flagfile", "", "", flag_values=values)
  monkeypatch.setattr(flags, "FLAGS", values)
  (tmp_path / "some.flags").write_text(of_file)
  argv = ["train", *(f"--flagfile={tmp_path}/some.flags" if a == "FILE" else a for a in arguments)]
  values(argv)
  command.prefer_command_line(argv)
  given = {name: value for name, value in options.given_flags().items() if name != "flagfile"}
  assert given == expected

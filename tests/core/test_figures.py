"""Figures with their standard errors, wherever they are printed."""

import math
import pathlib

import flowpp_tf as fpp
from flowpp_tf.core.errors import with_error


def test_a_figure_has_its_error_unless_one_example_has_none():
  assert with_error(1.82, 0.018) == "1.8200 +- 0.0180"
  assert with_error(1.82, math.nan) == with_error(1.82, None) == "1.8200"
  assert with_error(0.5, 0.25, "+.2f") == "+0.50 +- 0.25"
  assert with_error(1.5, 0.0, ".1f") == "1.5 +- 0.0"


def test_every_error_is_written_by_it():
  package = pathlib.Path(fpp.__file__).parent
  own = {"core/errors.py"}
  files = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
  assert {name for name, text in files.items() if "+- {" in text} == own

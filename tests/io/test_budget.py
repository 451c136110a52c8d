"""The budget for files from outside: what does not fit is one line, before anything is allocated."""

import pytest

from flowpp_tf.core.errors import InputError
from flowpp_tf.io import budget
from flowpp_tf.io.budget import Budget, BudgetError
from flowpp_tf.programs import command
from support.programs import run

WHAT = "the index of 'a.fpp'"


@pytest.mark.parametrize(
  "kind, message",
  [
    ("bytes_in", f"{WHAT} has 3 bytes; at most 2 bytes are read"),
    ("memory", f"{WHAT} would take 3 bytes of memory; at most 2 bytes are allowed"),
    ("pixels", f"{WHAT} has 3 pixels; at most 2 are decoded"),
    ("items", f"{WHAT} has 3 items; at most 2 are read"),
  ],
)
def test_what_is_more_than_the_limit_is_refused_and_the_limit_is_not(kind, message):
  with budget.use(Budget(**{kind: 2})):
    budget.claim(kind, 2, WHAT)
    with pytest.raises(BudgetError) as error:
      budget.claim(kind, 3, WHAT)
  assert str(error.value).startswith(message)
  budget.claim(kind, 3, WHAT)  # the limit has ended with its context


def test_output_is_refused_only_if_it_is_large_and_far_larger_than_its_file():
  with budget.use(Budget(bytes_out=1000, ratio=10)):
    budget.claim_output(1000, 1, WHAT)
    budget.claim_output(5000, 500, WHAT)
    with pytest.raises(BudgetError, match="1 bytes would become 1,001 bytes, more than 10 times as many"):
      budget.claim_output(1001, 1, WHAT)


@pytest.mark.parametrize(
  "text, amount", [("8G", 8 << 30), ("1.5 GiB", 3 << 29), ("500m", 500 << 20), ("64,000", 64000)]
)
def test_amounts_are_numbers_with_a_unit(text, amount):
  assert command.amount("memory", text) == amount


@pytest.mark.parametrize("text", ["", "G", "1e3", "-1", "1.5X", "8 GG", ",", ",,G", "9" * 400, "9" * 400 + ".5T"])
def test_other_amounts_are_refused(text):
  with pytest.raises(InputError, match="`--memory` must be a number such as 500M or 8G"):
    command.amount("memory", text)


def test_programs_have_the_flags_and_raise_the_limits():
  code = """if True:
    from flowpp_tf.io import budget
    from flowpp_tf.programs import command, decompress

    def run(options):
      print(budget.current().memory, budget.current().pixels, budget.current().bytes_out)

    decompress.run = run
    command.run_command("decompress")
  """
  out = run(["-c", code], "a.fpp", "--list", "--memory=1G", "--max_output=2G").out
  assert out.split() == [str(1 << 30), str(Budget.pixels), str(2 << 30)]

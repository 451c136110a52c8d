"""How the cost of a training step grows: with batch, image size, blocks and components.

python benchmarks/growth.py --output=growth.json

A row for each value of each quantity, in a process of its own: milliseconds a step, the peak memory of the
process, and of the tensors that the step makes (those of less than 256 KiB are not counted). And for each
quantity the exponents: slopes of log time and log memory of the tensors against log quantity, by least
squares. Two for the image's side are one for its pixels.
"""

import sys

from absl import app, flags
import numpy as np

from model import Case, measure
from processes import in_new_process
from tables import print_table, write_json

FLAGS = flags.FLAGS

# Every size: attention after two squeezes, as in the published model of 128x128 images.
_SIZE = "structure=squeeze,squeeze,columns:2,channels:2 dequant_mixing=false image_shape={0},{0},3"
# By the name of the quantity: its values, the batch, the variant, see model.py.
QUANTITIES = {
  "batch": ((1, 2, 4, 8, 16), None, "plain"),
  "image side": ((32, 64, 128), 1, _SIZE),
  "blocks": ((1, 2, 4, 8), 4, "blocks={0}"),
  "blocks with remat": ((1, 2, 4, 8), 4, "blocks={0} remat=blocks"),
  "components": ((4, 8, 16, 32, 64), 4, "components={0}"),
}


def case(name, value):
  """The `Case` of a value of a quantity."""
  _, batch, variant = QUANTITIES[name]
  return Case(
    FLAGS.config, "train", batch or value, FLAGS.threads, variant=variant.format(value), repeats=FLAGS.repeats
  )


def row(name, value):
  """What a value of a quantity costs, as a dict."""
  measured = in_new_process(measure, case(name, value))
  result = dict(
    quantity=name,
    value=value,
    ms_step=measured["ms_image"] * measured["batch"],
    tensors_gib=measured["tensors_gib"],
    peak_gib=measured["peak_gib"],
  )
  print(result, file=sys.stderr, flush=True)
  return result


def exponent(rows, cost):
  """Of a cost, a key of the rows of a quantity."""
  values, costs = (np.log([r[key] for r in rows]) for key in ("value", cost))
  return float(np.polyfit(values, costs, 1)[0])


def by_quantity(rows):
  """`dict` of the rows of each quantity, in order."""
  return {name: [r for r in rows if r["quantity"] == name] for name in dict.fromkeys(r["quantity"] for r in rows)}


def define_flags():
  """The script's flags; a function, as tests import this file."""
  flags.DEFINE_string("config", "photos", "Model that is varied: of 32x32x3 images, or 128x128.")
  flags.DEFINE_list("quantities", list(QUANTITIES), f"Any of {', '.join(QUANTITIES)}.")
  flags.DEFINE_integer("threads", 2, "Cores.")
  flags.DEFINE_integer("repeats", 5, "Timed rounds of each; the median counts.")
  flags.DEFINE_string("output", None, "JSON file to write; none if not given.")


def main(argv):
  del argv
  rows = [row(name, value) for name in FLAGS.quantities for value in QUANTITIES[name][0]]
  print_table(rows)
  print_table(
    [
      dict(quantity=name, time_exponent=exponent(group, "ms_step"), memory_exponent=exponent(group, "tensors_gib"))
      for name, group in by_quantity(rows).items()
    ]
  )
  write_json(FLAGS.output, rows)


if __name__ == "__main__":
  define_flags()
  app.run(main)

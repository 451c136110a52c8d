"""How deep the code is that one must step through to learn Flow++: calls between `log_prob_bound` and its arithmetic.

    python benchmarks/frames.py --config=cifar10

counts the frames of Python from `log_prob_bound` to a matrix product of a coupling's conditioner, where the bound is
traced, and to the function of the mixture, where it is evaluated eagerly: all of them, and those of the package.
"""

import pathlib
import traceback
from unittest import mock

from absl import app, flags
import numpy as np
import tensorflow as tf

FLAGS = flags.FLAGS
PACKAGE = str(pathlib.Path(__file__).parent.parent / "flowpp_tf")


def calls_to(function, evaluate):
  """The frames from `log_prob_bound` to the first and the deepest call of `function` while `evaluate()` runs."""
  module, name = function
  original, found = getattr(module, name), []

  def recorded(*args, **kwargs):
    stack = traceback.extract_stack()[:-1]
    begin = max((i for i, frame in enumerate(stack) if frame.name == "log_prob_bound"), default=None)
    if begin is not None:
      found.append(stack[begin:])
    return original(*args, **kwargs)

  with mock.patch.object(module, name, recorded):
    evaluate()
  return max(found, key=len)


def main(argv: list[str]) -> None:
  del argv
  import flowpp_tf as fpp
  from flowpp_tf.bijectors import mixture_logistic_cdf

  model = fpp.FlowPlusPlus(fpp.get_config(FLAGS.config))
  images = np.zeros([2, *model.config.image_shape], np.uint8)
  trace = tf.function(lambda x: model.log_prob_bound(x, seed=0), autograph=False).get_concrete_function
  for what, function, evaluate in (
    ("a matrix product, traced", (tf, "matmul"), lambda: trace(images)),
    ("the mixture, eager", (mixture_logistic_cdf, "logit_cdf"), lambda: model.log_prob_bound(images, seed=0)),
  ):
    frames = calls_to(function, evaluate)
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    print(f"{what}: {len(frames)} frames, {len(ours)} of them ours in {len({f.filename for f in ours})} files")
    if FLAGS.show:
      print("".join(f"  {pathlib.Path(f.filename).name}:{f.lineno} {f.name}\n" for f in frames))


if __name__ == "__main__":
  flags.DEFINE_string("config", "cifar10", "Config of the model.")
  flags.DEFINE_bool("show", False, "Whether to list the frames.")
  app.run(main)

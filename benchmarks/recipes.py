"""Compare recipes: validation bits/dim after the same minutes of training, or the same steps.

python benchmarks/recipes.py --dataset=fashion_mnist --config=fashion_mnist --minutes=2 \
    --case="batch_size=16 learning_rate=3e-3" --case="batch_size=8 learning_rate=3e-3 dtype=mixed_bfloat16"

A case sets fields of the model's config and of `TrainingConfig`. The clock runs while steps are taken, not while they
are traced, nor in validation. Each case is a process of its own, one after the other, for each of the seeds. With
`--steps` all cases take as many steps, which is a fair comparison where their arithmetic per image is the same.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags

FLAGS = flags.FLAGS
_ALWAYS = {"ema_decay": 0.99, "warmup_steps": 100, "init_batch_size": 256}


def main(argv):
  del argv
  if FLAGS.one is not None:
    print(json.dumps(_measure(json.loads(FLAGS.one))))
    return
  columns = (
    "case",
    "seed",
    "GFLOP/image",
    "steps",
    "images/s",
    "training",
    "single-sample bound",
    "importance-weighted bound",
  )
  print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
  for seed in map(int, FLAGS.seeds):
    for case in FLAGS.case:
      given = [
        *sys.argv[:1],
        f"--one={json.dumps({**_fields(case), 'seed': seed})}",
        f"--dataset={FLAGS.dataset}",
        f"--config={FLAGS.config}",
        f"--minutes={FLAGS.minutes}",
        f"--images={FLAGS.images}",
        f"--steps={FLAGS.steps}",
        f"--crops={FLAGS.crops}",
        f"--num_samples={FLAGS.num_samples}",
        *([f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []),
      ]
      out = subprocess.run([sys.executable, *given], check=True, text=True, stdout=subprocess.PIPE).stdout
      row = json.loads(out.splitlines()[-1])
      print(
        f"| {case} | {seed} | {row['gflop']:.2f} | {row['steps']} | {row['images_per_second']:.1f} | "
        f"{row['training']:.3f} | {row['single']:.4f} | {row['weighted']:.4f} |",
        flush=True,
      )


def _fields(case):
  """The fields of a case; a value is JSON where it can be read as such, else text."""
  fields = dict(item.split("=", 1) for item in case.split())
  for name, text in fields.items():
    try:
      fields[name] = json.loads(text)
    except ValueError:
      pass
  return fields


def _measure(fields):
  from flowpp_tf.core.lanes import use_cpu_lanes

  use_cpu_lanes()
  import keras
  import tensorflow as tf

  from benchmarks.model_counts import count_pass
  from flowpp_tf.data import load_dataset, training_batches
  from flowpp_tf.evaluation import evaluate_bits_per_dim
  from flowpp_tf.models import FlowPlusPlus, get_config
  from flowpp_tf.training import TrainingConfig, TrainState, train_step

  of_model = {f.name for f in dataclasses.fields(get_config(FLAGS.config))}
  config = dataclasses.replace(get_config(FLAGS.config), **{k: v for k, v in fields.items() if k in of_model})
  defaults = {**_ALWAYS, "warmup_steps": 0 if "schedule" in fields else _ALWAYS["warmup_steps"]}
  training = TrainingConfig(
    steps=FLAGS.steps or 10**9, **{**defaults, **{k: v for k, v in fields.items() if k not in of_model}}
  )
  dataset = load_dataset(FLAGS.dataset, FLAGS.data_dir, image_shape=config.image_shape, crops=FLAGS.crops)
  keras.utils.set_random_seed(training.seed)
  state = TrainState(FlowPlusPlus(config), training)
  state.model.initialize(
    next(iter(training_batches(dataset.train, training.init_batch_size, training.seed))), seed=training.seed
  )
  state.reset_ema()
  step = tf.function(functools.partial(train_step, state), autograph=False)
  batches = iter(training_batches(dataset.train, training.batch_size, training.seed, flip=training.flip))
  step(next(batches))  # traced here
  state.reset_sums()
  begin, steps = time.monotonic(), 1
  while steps < FLAGS.steps if FLAGS.steps else time.monotonic() - begin < 60 * FLAGS.minutes:
    step(next(batches))
    steps += 1
  seconds = time.monotonic() - begin
  with state.ema_weights():
    result = evaluate_bits_per_dim(state.model, dataset.validation[: FLAGS.images], FLAGS.num_samples)
  return {
    "gflop": count_pass(config).training_flops_image / 1e9,
    "steps": steps,
    "images_per_second": steps * training.batch_size / seconds,
    "training": state.means()["bits_per_dim"],
    "single": result.bounds[0].bits_per_dim,
    "weighted": result.best.bits_per_dim,
  }


if __name__ == "__main__":
  flags.DEFINE_string("dataset", "photos", "Data set.")
  flags.DEFINE_string("data_dir", None, "Its folder.")
  flags.DEFINE_bool("crops", False, "Train on random crops, as bin/train --crops.")
  flags.DEFINE_string("config", "photos", "Model that is varied.")
  flags.DEFINE_float("minutes", 2.0, "Time for steps.", lower_bound=0)
  flags.DEFINE_integer("steps", 0, "Steps of each case; 0: as many as the minutes allow.", lower_bound=0)
  flags.DEFINE_multi_string("case", [""], 'Fields that differ, such as "batch_size=8 learning_rate=3e-3".')
  flags.DEFINE_list("seeds", ["0"], "Seeds.")
  flags.DEFINE_integer("images", 500, "Images of validation.", lower_bound=1)
  flags.DEFINE_integer("num_samples", 4, "Samples of the importance-weighted bound.", lower_bound=1)
  flags.DEFINE_string("one", None, "Used internally: a case as JSON.")
  app.run(main)

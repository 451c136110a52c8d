"""Make pictures with a trained model: samples, interpolations, reconstructions, nearest neighbours.

bin/sample --workdir=runs/digits --n=100 --temperature=0.8 --seed=1
bin/sample --workdir=runs/digits --temperature=0.5,0.7,1.0
bin/sample --workdir=runs/digits --interpolate=test:3,test:7 --output=walk.gif
bin/sample --workdir=runs/digits --reconstruct=test --n=100
bin/sample --workdir=runs/digits --neighbours=5
bin/sample --preset=digits_by_class --labels=0,1,2
"""

import math
import pathlib

from absl import flags

from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import ANIMATIONS, SPLITS
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, run

COMMON = "preset workdir n temperature labels guidance seed interpolate reconstruct neighbours output".split()
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_NOT_WITH = {"interpolate": ("n", "temperature"), "reconstruct": ("temperature",), "neighbours": ()}


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  model_flags.define_precision_flag()
  flags.DEFINE_integer(
    "n",
    None,
    "Number of images. If not given: 64; 10 for several temperatures, for each class and for "
    "neighbours; 16 of each split or folder to reconstruct; 4 pictures of tiles that see their neighbours.",
    lower_bound=1,
    upper_bound=100_000,
  )
  flags.DEFINE_list(
    "temperature",
    ["1.0"],
    "Factor of the standard deviation of the latents. "
    "Several values, separated by commas, give one row each, from the same latents.",
  )
  flags.DEFINE_list(
    "labels",
    None,
    "Of a model with classes, labels such as 0,1,2: a row for each, from the same "
    "latents; all classes if not given. -1 leaves the label out.",
  )
  flag_kinds.define_float(
    "guidance",
    0.0,
    "Of a model with classes, how far samples are pushed from those without a label; 0 for the model itself.",
    -100,
    100,
  )
  flags.DEFINE_list(
    "picture_size",
    None,
    "Of a model whose tiles see their neighbours (tile_neighbours), height and width of the pictures, such as 300,300; "
    "4 x 4 tiles if not given.",
  )
  flags.DEFINE_integer(
    "seed", 0, "Seed of the samples and of the dequantization noise.", lower_bound=-1 << 63, upper_bound=(1 << 63) - 1
  )
  flags.DEFINE_integer(
    "batch_size", 100, "Batch size; the images do not depend on it.", lower_bound=1, upper_bound=1 << 16
  )
  flags.DEFINE_list(
    "interpolate",
    None,
    "Two images to interpolate between in latent space: files, or images of the run's data such as test:3,test:7.",
  )
  flags.DEFINE_integer(
    "frames",
    None,
    "Number of images of --interpolate; if not given, 12, or 30 in an animation.",
    lower_bound=2,
    upper_bound=10_000,
  )
  flags.DEFINE_bool(
    "animate",
    None,
    "Write --interpolate as an animation that plays forwards and backwards: a "
    "GIF, or an animated PNG, which keeps all colours, if --output ends in .apng or .png. "
    "An --output that ends in .gif or .apng implies --animate.",
  )
  flags.DEFINE_list(
    "reconstruct",
    None,
    "Images to encode and decode: splits such as test, images such as "
    "test:3, files, folders. The rows are originals, reconstructions and differences; the "
    "largest difference is white.",
  )
  flags.DEFINE_integer(
    "neighbours",
    None,
    "Number of training images to show for each sample: those with the "
    "smallest root mean square difference of pixel values.",
    lower_bound=1,
    upper_bound=10_000,
  )
  flags.DEFINE_string(
    "output",
    None,
    "File for the picture, a PNG, JPEG or WebP by its name; if not given, "
    "WORKDIR/samples_t1.0_s0.png, with kind, temperature, guidance and seed in its name.",
  )
  flags.DEFINE_string(
    "npy",
    None,
    "File for the images as they are, uint8, uint16 (of more than 256 levels) or real-valued [n, H, W, C]; "
    "[temperatures, n, ...] "
    "for several temperatures, [2, n, ...] for originals and reconstructions, [n, 1 + "
    "neighbours, ...] for samples and their neighbours.",
  )
  data_flags.define_data_flags(default="that of the run")
  device_flags.define_device_flags()


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given, temperatures, kind = flags.FLAGS, temperatures_from_flags(), kind_from_flags()
  model, workdir = model_flags.model_from_flags()
  model_flags.check_output_from_flags(workdir)
  labels_from_flags()
  picture_size_from_flags()
  named = [*(given.interpolate or ()), *(given.reconstruct or ())]
  inputs = [file for name in named if name not in SPLITS for file in data_flags.files_below(name)]
  for path in (given.output, given.npy):  # before the work
    if path is not None:
      run.check_can_be_written(path, inputs + data_flags.files_from_flags())
  at = f"at temperature {','.join(map(str, temperatures))}, seed {given.seed}"
  what = {
    "samples": f"drawing {f'{given.n} ' if given.n else ''}samples {at},",
    "interpolate": f"interpolating between {' and '.join(given.interpolate or ())}",
    "reconstruct": f"reconstructing {', '.join(given.reconstruct or ())}",
    "neighbours": f"finding the {given.neighbours} nearest neighbours of {given.n or 10} samples {at},",
  }[kind]
  return f"{what} with {model}, to {given.output or workdir}"


def temperatures_from_flags() -> list[float]:
  """Return the temperatures."""
  texts = flags.FLAGS.temperature
  try:
    temperatures = [float(text) for text in texts]
    if temperatures and all(0 <= value < math.inf for value in temperatures):
      return temperatures
  except ValueError:
    pass
  raise InputError(
    f"--temperature must be a number of at least 0, or several such as 0.5,0.7,1.0, got {','.join(texts)!r}"
  )


def labels_from_flags() -> list[int]:
  """Return the labels; empty if they are not given."""
  texts = flags.FLAGS.labels or ()
  try:
    return list(map(int, texts))
  except ValueError:
    raise InputError(f"--labels must be integers such as 0,1,2, got {','.join(texts)!r}") from None


def picture_size_from_flags() -> tuple[int, int] | None:
  """Return height and width of pictures; None if they are not given."""
  texts = flags.FLAGS.picture_size
  if texts is None:
    return None
  are_sides = [text.isdecimal() and 0 < int(text) <= 1 << 16 for text in texts]
  if len(texts) != 2 or not all(are_sides):
    raise InputError(f"--picture_size must be height and width, such as 300,300, got {','.join(texts)!r}")
  return int(texts[0]), int(texts[1])


def animated_from_flags() -> bool:
  """Return whether the picture is an animation."""
  return bool(flags.FLAGS.animate or (flags.FLAGS.output or "").lower().endswith((".gif", ".apng")))


def kind_from_flags() -> str:
  """Return the kind of picture; raise an `InputError` if the flags that were given do not go together."""
  given, animated = flag_kinds.given_from_flags(), animated_from_flags()
  kinds = [kind for kind in _NOT_WITH if kind in given]
  if len(kinds) > 1:
    raise InputError(f"--{kinds[0]} and --{kinds[1]} are two kinds of picture; give one of them")
  kind = kinds[0] if kinds else "samples"
  for name in _NOT_WITH.get(kind, ()):
    if name in given:
      raise InputError(f"--{name} is for samples, and does not go with --{kind}")
  if kind == "neighbours" and len(given.get("temperature", ())) > 1:
    raise InputError(f"--neighbours takes one --temperature, got {','.join(given['temperature'])}")
  output = given.get("output")
  run.check_differ(output=output, npy=given.get("npy"))
  if output and pathlib.Path(output).suffix.lower() not in _PICTURES and not animated:
    raise InputError(f"--output={output} must end in {', '.join(_PICTURES)}")
  if kind == "interpolate" and len(given["interpolate"]) != 2:
    raise InputError(
      f"--interpolate must be two images, such as test:3,test:7 or a.png,b.png, got {','.join(given['interpolate'])!r}"
    )
  _check_animation(kind, given, animated, output)
  return kind


def _check_animation(kind, given, animated, output):
  if kind != "interpolate":
    for name in ("frames", "animate"):
      if name in given:
        raise InputError(f"--{name} is for --interpolate")
    if animated:
      raise InputError(f"--output={output} would be an animation, which is for --interpolate; expected .png")
  elif given.get("animate") and output and pathlib.Path(output).suffix.lower() not in ANIMATIONS:
    raise InputError(f"--output={output} must end in {', '.join(ANIMATIONS)} for --animate")
  elif given.get("animate") is False and animated:
    raise InputError(f"--output={output} would be an animation, which --noanimate forbids; expected .png")

"""Score single images under a trained model and write a CSV.

bin/score --workdir=runs/digits --images=my_images --output=scores.csv

One row per image, with the columns
  image                 name of the file below the folder, or index in the split or the array
  log_likelihood        importance-weighted bound of --num_samples samples, nats
  bits_per_dim          -log_likelihood / (H W C ln 2)
  typicality            |bits_per_dim - its mean over the validation split of the run|, bits/dim;
                        higher is more anomalous
  nats_per_dim          of real-valued images, whose density is exact: log_likelihood / (H W C)
  complexity_corrected  bits_per_dim - 8 png_bytes / (H W C), bits/dim; higher is more anomalous
  png_bytes             bytes of the pixels in PNG, without the 63 that every PNG has; it and complexity_corrected
                        are of integer images only
  p_value               with --calibrate: that of the image being like the sound images, by its bits_per_dim,
                        two-sided; of sound images at most a share p has a p_value of at most p
  error                 why a file cannot be read; the other columns are then empty

Likelihood by itself does not separate images like the training images from others: simple images are
likely, wherever they come from. docs/scoring.md says what each score can and cannot do.
"""

from absl import flags

from flowpp_tf.core.checks import MOST_LEVELS
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import SPLITS
from flowpp_tf.io.image_folder import is_array_file, open_folder
from flowpp_tf.programs import data_flags, device_flags, flag_kinds, model_flags, run

COMMON = "preset workdir images dataset split num_samples limit output tiles maps calibrate".split()


def define_flags() -> None:
  """Define the program's flags."""
  model_flags.define_model_flags()
  model_flags.define_precision_flag()
  flags.DEFINE_string(
    "images",
    None,
    "Folder of PNG, JPEG or WebP files to score, searched recursively, or an .npy or .npz file of one array of images; "
    "a split of --dataset if not given. Models of more than 256 levels and of real-valued images read files of TIFF, "
    "NumPy and FITS too.",
  )
  flag_kinds.define_name("split", "test", SPLITS, "Split of --dataset.")
  data_flags.define_data_flags(default="that of the run")
  device_flags.define_device_flags()
  flags.DEFINE_integer(
    "limit", None, "Number of images, from the start; all if not given.", lower_bound=1, upper_bound=1 << 31
  )
  flags.DEFINE_string("output", None, "CSV file; standard output if not given.")
  flags.DEFINE_bool(
    "tiles",
    False,
    "Score images in their own size, cut into tiles of the model's size as archives cut them; else they are cropped "
    "and resized to the model's size.",
  )
  flags.DEFINE_string(
    "maps",
    None,
    "New folder for a heat map of each image, PNG: bits of each pixel, which add up to the image's bound. Black is 0 "
    "and below, pale yellow twice the mean of typical images; of real-valued images, whose bits can be negative, 1 bit "
    "per value below that mean, and 6 above it.",
  )
  flags.DEFINE_string(
    "calibrate",
    None,
    "Folder, or array, of sound images that the model was not trained on, as --images; adds the column p_value.",
  )
  flags.DEFINE_integer(
    "num_samples", 16, "Samples of the importance-weighted bound.", lower_bound=1, upper_bound=1 << 20
  )
  flags.DEFINE_integer("batch_size", 100, "Batch size.", lower_bound=1, upper_bound=1 << 16)
  flags.DEFINE_integer(
    "typical_images",
    1000,
    "Number of validation images of the run for typicality, spread evenly over the split; all if it has fewer.",
    lower_bound=2,
    upper_bound=1 << 31,
  )
  flags.DEFINE_integer(
    "seed",
    0,
    "Seed of the dequantization noise, the same draws for all images.",
    lower_bound=-1 << 63,
    upper_bound=(1 << 63) - 1,
  )


def plan_from_flags() -> str:
  """Return what will be done; raise an `InputError` for what is wrong already."""
  given = flags.FLAGS
  if given.images is not None and (given.dataset or "split" in flag_kinds.given_from_flags()):
    raise InputError("--images is a folder, --dataset and --split say other images; give one of them")
  inputs = [file for path in (given.images, given.calibrate) if path is not None for file in _files(path)]
  if given.output is not None:
    run.check_can_be_written(given.output, inputs + data_flags.files_from_flags())
  if given.maps is not None:
    run.check_is_new(given.maps)
  run.check_differ(output=given.output, maps=given.maps)
  if given.tiles and given.images is None:
    raise InputError("--tiles is for the files of --images; those of a data set have the model's size")
  model, _ = model_flags.model_from_flags()
  if given.images is None:
    images = data_flags.images_from_flags()
  else:
    images = f"{f'the first {given.limit:,}' if given.limit else 'the'} images of {given.images}"
  return (
    f"scoring {images} with {model}, {given.num_samples} sample(s) per image, to {given.output or 'standard output'}"
  )


def _files(path):
  """Return the image files of a folder, of any model, or the file of an array; raise an `InputError` without any."""
  if is_array_file(path):
    return [path]
  folder, names, _ = open_folder(path, MOST_LEVELS)
  return [folder / name for name in names]

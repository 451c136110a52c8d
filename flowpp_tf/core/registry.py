"""What is chosen by a name: the couplings and the data sets. Each is a file of its own, and one line here.

A line says where the object is, for `pkgutil.resolve_name`, which imports its module when the object is used. So flags
and configs know the names without importing TensorFlow.
"""

# For --coupling, a `CouplingKind` each.
COUPLINGS = {
  "mixture_logistic": "flowpp_tf.bijectors.coupling:MIXTURE_LOGISTIC",
  "affine": "flowpp_tf.bijectors.coupling:AFFINE",
  "rational_quadratic": "flowpp_tf.bijectors.piecewise_cdf:RATIONAL_QUADRATIC",
  "piecewise_quadratic": "flowpp_tf.bijectors.piecewise_cdf:QUADRATIC",
  "piecewise_linear": "flowpp_tf.bijectors.piecewise_cdf:LINEAR",
}

# For --dataset, a function each, which returns an `ImageDataset`; its parameters are those options of
# `data.load_dataset` that it has.
DATASETS = {
  "digits": "flowpp_tf.data.bundled:digits",
  "photos": "flowpp_tf.data.bundled:photos",
  "cifar10": "flowpp_tf.data.tfds:load_named",
  "cifar100": "flowpp_tf.data.tfds:load_named",
  "svhn": "flowpp_tf.data.tfds:load_named",
  "mnist": "flowpp_tf.data.tfds:load_named",
  "fashion_mnist": "flowpp_tf.data.tfds:load_named",
  "imagenet32_old": "flowpp_tf.data.tfds:load_named",
  "imagenet64_old": "flowpp_tf.data.tfds:load_named",
  "imagenet32_new": "flowpp_tf.data.tfds:load_named",
  "imagenet64_new": "flowpp_tf.data.tfds:load_named",
  "celeb_a": "flowpp_tf.data.tfds:load_named",
  "celeb_a_hq": "flowpp_tf.data.tfds:load_named",
  "folder:PATH": "flowpp_tf.data.folder:load_folder",
  "npz:PATH": "flowpp_tf.data.arrays:load_npz",
  "tfds:NAME": "flowpp_tf.data.tfds:load_any",
}

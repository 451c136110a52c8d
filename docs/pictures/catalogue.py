"""All pictures: the module that draws each, by a function of its name, and the kind of its file."""

PICTURES = {
  "bound": ("diagrams", "svg"),
  "coupling": ("diagrams", "svg"),
  "multi_scale": ("diagrams", "svg"),
  "bits_per_dim": ("charts", "svg"),
  "release": ("charts", "svg"),
  "growth": ("charts", "svg"),
  "training_curves": ("charts", "svg"),
  "mixture_cdf": ("newton", "svg"),
  "scores_digits": ("scores", "svg"),
  "ablations": ("ablations", "svg"),
  "field_ranks": ("ranks", "svg"),
  "samples_first": ("samples", "png"),
  "samples_digits": ("samples", "png"),
  "samples_fashion_mnist": ("samples", "png"),
  "samples_photos": ("samples", "png"),
  "temperatures": ("samples", "png"),
  "interpolation": ("samples", "png"),
  "classes": ("samples", "png"),
  "neighbours": ("samples", "png"),
  "demo": ("screens", "png"),
}

"""Bijectors: constructors, the six methods of each, and the functions of mixtures."""

import functools

import numpy as np
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.core.registry import COUPLINGS
from support.bijector_cases import CASES, Conditioner, conditioned_coupling
from support.public_callables.row import Row, look
from support.public_callables.world import NORMAL
from support.wrong_values import (
  CONSTANT,
  NAN,
  Argument,
  context,
  count,
  flag,
  function,
  instance,
  name,
  number,
  optional,
  real,
  real_values,
  same,
  shape,
  some_of,
  text,
)

OF_VECTORS = optional(count(1, low=0)).named("x", "y")
EVENT_NDIMS = optional(count(3, low=0)).named("x", "y")


# Axes of events whose size a bijector does not fix, by case: any that can be halved is right.
FREE = {
  **{case: (1, 2) for case in ("conv", "conv_blocks", "conv_lu", "conv_lu_blocks")},
  **{
    case: (1, 2) for case in CASES if case.startswith("coupling_") or case in ("chain", "invert", "context_transform")
  },
  **{case: (1, 2, 3) for case in ("squeeze", "split_columns", "swap_halves")},
}


def _tensor(case_name, points, bijector, inverse, log_det=False):
  """The argument `x` or `y` of a bijector's methods: parameters fix the sizes, and sizes of 1 are broadcast."""
  free = FREE.get(case_name, ())
  right = {f"size {size} of axis {axis}" for axis in free for size in ("1", "+ 1", "0")}
  right |= {"an axis too few"} if 3 in free else set()
  right |= {"float16 tensor"} if case_name == "logit_margin" else set()  # whose inverse float16 does not resolve

  def wrong(value):
    made = bijector()
    ndims = made.inverse_min_event_ndims if inverse else made.forward_min_event_ndims
    for wrong_name, *rest in real_values(value, event=ndims, cast="" if made.dtype else "floats"):
      if wrong_name not in right:
        yield wrong_name, *(CONSTANT if log_det and part is NAN else part for part in rest)
    if ndims == 0 and len(made.experimental_batch_shape(x_event_ndims=0)):
      yield "size + 1", np.concatenate([value, value[..., :1]], axis=-1)
      yield "size 1", value[..., :1], same(np.broadcast_to(value[..., :1], value.shape).copy())

  return Argument(lambda w: points(), wrong, names=("x", "y"))


def _methods(case_name, case):
  bijector = functools.cache(lambda: case.make("float32"))
  x = functools.cache(lambda: np.asarray(case.sample((2, *case.event), "float32")))
  y = functools.cache(lambda: np.asarray(bijector().forward(x())))
  rows = {}
  for method, argument, points in (("forward", "x", x), ("inverse", "y", y)):
    of = lambda method: lambda w: getattr(bijector(), method)
    tensor = _tensor(case_name, points, bijector, method == "inverse")
    rows[method] = Row(of(method), {argument: tensor})
    rows[f"{method}_log_det_jacobian"] = Row(
      of(f"{method}_log_det_jacobian"),
      {argument: _tensor(case_name, points, bijector, method == "inverse", True), "event_ndims": EVENT_NDIMS},
    )
    rows[f"{method}_and_log_det"] = Row(of(f"{method}_and_log_det"), {argument: tensor, "ctx": context()})
  return rows


def _value(shape, event=0):
  """The look at a bijector: its value and log-det of points."""
  points = NORMAL(*shape)
  return lambda bijector: look(bijector.forward_and_log_det(tf.constant(points, bijector.dtype or "float32")))


MIXTURE = dict(logits=NORMAL(2, 3), loc=NORMAL(2, 3), log_scale=NORMAL(2, 3))


def _mixture_function(function, first):
  arguments = {
    first: real(NORMAL(4, 2), cast="floats"),
    **{key: real(value, event=1, cast="floats") for key, value in MIXTURE.items()},
  }
  return Row(lambda w: function, arguments)


_CONDITIONER = Conditioner("float32", 2)
# Height and width of a context may be 1, and what its channels are is the matter of the network.
_OF_ANY_NETWORK = (
  "size 1 of axis 0",
  "size 1 of axis 1",
  "size + 1 of axis 2",
  "size 0 of axis 2",
  "tensor of another dtype",
  "float16 tensor",
  "array of another dtype",
)

CONSTRUCTORS = {
  "ActNorm": Row(
    lambda w: fb.ActNorm,
    dict(
      scale=real(np.abs(NORMAL(2)) + 1),
      bias=real(NORMAL(2)),
      epsilon=number(1e-8, low=0),
      min_variance=number(0.0, low=0),
    ),
    _value([3, 2]),
  ),
  "Standardization": Row(
    lambda w: fb.Standardization,
    dict(mean=real(NORMAL(2)), stddev=real(np.abs(NORMAL(2)) + 1), allow_constant=flag(False)),
    _value([3, 2]),
  ),
  "Standardization.initialize": Row(
    lambda w: fb.Standardization(tf.Variable(tf.zeros(2)), tf.Variable(tf.ones(2))).initialize,
    dict(x=real(NORMAL(5, 2), event=1, finite=True)),
  ),
  "BoundedAffine": Row(
    lambda w: fb.BoundedAffine, dict(scale_logit=real(NORMAL(2)), shift=real(NORMAL(2))), _value([3, 2])
  ),
  "Chain": Row(lambda w: fb.Chain, dict(bijectors=some_of([fb.Sigmoid()])), _value([3, 2])),
  "Invert": Row(lambda w: fb.Invert, dict(bijector=instance(fb.Invert(fb.Sigmoid()))), _value([3, 2])),
  "Conditioned": Row(
    lambda w: fb.Conditioned,
    dict(
      bijector=instance(lambda w: conditioned_coupling("float32")),
      context=real(NORMAL(4, 4, 1), event=3).but(*_OF_ANY_NETWORK),
    ),
    _value([4, 4, 2]),
  ),
  "ContextTransform": Row(
    lambda w: fb.ContextTransform,
    dict(bijector=instance(fb.Sigmoid()), transform=instance(fb.Standardization([0.0, 0.0], [1.0, 2.0]))),
    _value([3, 2]),
  ),
  "Coupling": Row(
    lambda w: fb.Coupling,
    dict(
      conditioner=function(_CONDITIONER),
      bijector_fn=function(fb.affine_coupling_bijector),
      event_ndims=count(1),
      dtype=name("float32"),
      kept=optional(count(1, most=1)),
      remat=flag(False),
    ),
    _value([3, 2]),
  ),
  "Invertible1x1Conv": Row(
    lambda w: fb.Invertible1x1Conv,
    dict(kernel=real(NORMAL(2, 2), event=2, cast="floats"), event_ndims=count(3), whitening=flag(False)),
    _value([2, 2, 2]),
  ),
  "Invertible1x1ConvLU": Row(
    lambda w: fb.Invertible1x1ConvLU,
    dict(
      lower_upper=real(NORMAL(2, 2), event=2, cast="floats"),
      sign=optional(shape((1, -1), rank=2, low=0)).but("negative", "booleans"),
      permutation=optional(shape((1, 0), rank=2, low=None))
      .but("booleans")
      .also(("repeated", [0, 0]), ("too large", [0, 2])),
      event_ndims=count(3),
    ),
    _value([2, 2, 2]),
  ),
  "Invertible1x1ConvLU.from_kernel": Row(
    lambda w: fb.Invertible1x1ConvLU.from_kernel,
    dict(kernel=real(NORMAL(2, 2), event=2, cast="floats")),
    _value([2, 2, 2]),
  ),
  "LogitMixtureLogisticCDF": Row(
    lambda w: fb.LogitMixtureLogisticCDF, {k: real(v, event=1) for k, v in MIXTURE.items()}, _value([4, 2])
  ),
  "MixtureLogisticCDF": Row(
    lambda w: fb.MixtureLogisticCDF, {k: real(v, event=1) for k, v in MIXTURE.items()}, _value([4, 2])
  ),
  "LogitRationalQuadraticCDF": Row(
    lambda w: fb.LogitRationalQuadraticCDF,
    dict(
      width_logits=real(NORMAL(2, 3), event=1),
      height_logits=real(NORMAL(2, 3), event=1),
      slope_logits=real(NORMAL(2, 4), event=1),
    ),
    _value([4, 2]),
  ),
  "PixelsToLogit": Row(
    lambda w: fb.PixelsToLogit,
    dict(levels=count(17), alpha=number(0.05, 0, 0.5, ends=False)),
    lambda b: look(b.forward_and_log_det(tf.constant([1.0, 2.0]))),
  ),
  "AsinhTransform": Row(
    lambda w: fb.AsinhTransform,
    dict(offset=real(tf.constant(0.1)), scale=real(tf.constant(0.05)), levels=count(17)),
    lambda b: look(b.forward_and_log_det(tf.constant([1.0, 2.0]))),
  ),
  "LogitMargin": Row(lambda w: fb.LogitMargin, dict(margin=number(0.05, 0, 0.5, ends=False)), _value([3, 2])),
  "Squeeze": Row(lambda w: fb.Squeeze, dict(block_size=count(2)), _value([4, 4, 2])),
  "ActNorm.initialize": Row(
    lambda w: fb.ActNorm(tf.Variable(tf.ones(2)), tf.Variable(tf.zeros(2))).initialize,
    dict(x=real(NORMAL(5, 2), event=1, finite=True), inverse=flag(False)),
  ),
  "Invertible1x1Conv.initialize": Row(
    lambda w: fb.Invertible1x1Conv(tf.Variable(tf.eye(2)), event_ndims=1).initialize,
    dict(x=real(NORMAL(5, 2), event=1, finite=True), inverse=flag(False)),
  ),
}
FUNCTIONS = {
  "LogitMixtureLogisticCDF.find_inverse": Row(
    lambda w: fb.LogitMixtureLogisticCDF(**MIXTURE).find_inverse,
    dict(y=real(NORMAL(4, 2)).named("target", "logits")),
    lambda r: look(r.estimated_root),
  ),
  "affine_coupling_bijector": Row(
    lambda w: fb.affine_coupling_bijector, dict(parameters=real(NORMAL(3, 4), event=1, cast="floats")), _value([3, 2])
  ),
  "mixture_logistic_coupling_bijector": Row(
    lambda w: fb.mixture_logistic_coupling_bijector,
    dict(
      parameters=real(NORMAL(3, 2 * 8), event=1, cast="floats"),
      components=count(2),
      margin=number(0.0, 0, 0.5).also(("upper end", 0.5)),
    ),
    _value([3, 2]),
  ),
  "rational_quadratic_coupling_bijector": Row(
    lambda w: fb.rational_quadratic_coupling_bijector,
    dict(parameters=real(NORMAL(3, 2 * 8), event=1, cast="floats"), components=count(2)),
    _value([3, 2]),
  ),
  "register_coupling": Row(
    lambda w: fb.register_coupling,
    dict(
      name=text("mine").also(("empty", ""), ("taken", "affine"), ("a flag", "--mine"), ("a path", "a/b")),
      kind=instance(fb.CouplingKind(lambda components: 1, lambda p, components: fb.Sigmoid())),
    ),
    reset=lambda w: COUPLINGS.pop("mine", None),
  ),
  "num_parameters": Row(
    lambda w: fb.num_parameters, dict(coupling=name("mixture_logistic"), components=count(3, low=0, huge=same(2**62)))
  ),
  "split_columns": Row(
    lambda w: fb.split_columns, dict(image_shape=shape((4, 4, 2))), lambda b: look(b.forward(tf.zeros([4, 4, 2])))
  ),
  **{
    function.__name__: _mixture_function(function, first)
    for function, first in (
      (fb.mixture_logistic_log_cdf, "x"),
      (fb.mixture_logistic_log_prob, "x"),
      (fb.mixture_logistic_log_survival, "x"),
      (fb.logit_mixture_logistic_quantile, "target"),
    )
  },
  "logit_mixture_logistic_cdf": _mixture_function(
    lambda x, logits, loc, log_scale: fb.logit_mixture_logistic_cdf(x, logits, loc, log_scale), "x"
  ),
  "find_logit_mixture_logistic_quantile": _mixture_function(fb.find_logit_mixture_logistic_quantile, "target")._replace(
    look=lambda r: look(r.estimated_root)
  ),
}


def _rows():
  rows = {**CONSTRUCTORS, **FUNCTIONS}
  for case_name, case in CASES.items():
    cls = type(case.make("float32")).__name__.removeprefix("_Composite")
    for method, row in _methods(case_name, case).items():
      rows[f"{cls}.{method}/{case_name}"] = row
  for method, argument in (("forward", "x"), ("inverse", "y")):
    of = lambda method: lambda w: getattr(w.double, method)
    tensor = real(NORMAL(3, 2), cast="floats").named("x", "y")
    rows[f"Bijector.{method}"] = Row(of(method), {argument: tensor})
    rows[f"Bijector.{method}_log_det_jacobian"] = Row(
      of(f"{method}_log_det_jacobian"), {argument: tensor.but("NaN"), "event_ndims": OF_VECTORS}
    )
    rows[f"Bijector.{method}_and_log_det"] = Row(of(f"{method}_and_log_det"), {argument: tensor, "ctx": context()})
  return rows


ROWS = _rows()

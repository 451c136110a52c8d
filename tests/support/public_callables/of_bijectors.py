"""Bijectors: constructors, the six methods of each, and the functions of mixtures."""

import functools

import numpy as np
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.core.registry import COUPLINGS
from support.bijector_cases import CASES, Conditioner, conditioned_coupling
from support.public_callables.row import Row, look, row
from support.public_callables.world import NORMAL
from support.wrong_values import (
  CONSTANT,
  NAN,
  Argument,
  context,
  count,
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
  "ActNorm": row(
    scale=real(np.abs(NORMAL(2)) + 1),
    bias=real(NORMAL(2)),
    epsilon=number(1e-08, low=0),
    min_variance=number(0.0, low=0),
    look=_value([3, 2]),
  ),
  "Standardization": row(mean=real(NORMAL(2)), stddev=real(np.abs(NORMAL(2)) + 1), look=_value([3, 2])),
  "Standardization.initialize": row(
    lambda w: fb.Standardization(tf.Variable(tf.zeros(2)), tf.Variable(tf.ones(2))).initialize,
    x=real(NORMAL(5, 2), event=1, finite=True),
  ),
  "BoundedAffine": row(scale_logit=real(NORMAL(2)), shift=real(NORMAL(2)), look=_value([3, 2])),
  "Chain": row(bijectors=some_of([fb.Sigmoid()]), look=_value([3, 2])),
  "Invert": row(bijector=fb.Invert(fb.Sigmoid()), look=_value([3, 2])),
  "Conditioned": row(
    bijector=lambda w: conditioned_coupling("float32"),
    context=real(NORMAL(4, 4, 1), event=3).but(*_OF_ANY_NETWORK),
    look=_value([4, 4, 2]),
  ),
  "ContextTransform": row(
    bijector=fb.Sigmoid(), transform=fb.Standardization([0.0, 0.0], [1.0, 2.0]), look=_value([3, 2])
  ),
  "Coupling": row(
    conditioner=_CONDITIONER,
    bijector_fn=fb.affine_coupling_bijector,
    event_ndims=1,
    dtype=name("float32"),
    kept=optional(count(1, most=1)),
    look=_value([3, 2]),
  ),
  "Invertible1x1Conv": row(kernel=real(NORMAL(2, 2), event=2, cast="floats"), look=_value([2, 2, 2])),
  "Invertible1x1ConvLU": row(
    lower_upper=real(NORMAL(2, 2), event=2, cast="floats"),
    permutation=optional(shape((1, 0), rank=2, low=None))
    .but("booleans")
    .also(("repeated", [0, 0]), ("too large", [0, 2])),
    look=_value([2, 2, 2]),
  ),
  "LogitMixtureLogisticCDF": Row(
    lambda w: fb.LogitMixtureLogisticCDF, {k: real(v, event=1) for k, v in MIXTURE.items()}, _value([4, 2])
  ),
  "MixtureLogisticCDF": Row(
    lambda w: fb.MixtureLogisticCDF, {k: real(v, event=1) for k, v in MIXTURE.items()}, _value([4, 2])
  ),
  "LogitRationalQuadraticCDF": row(
    width_logits=real(NORMAL(2, 3), event=1),
    height_logits=real(NORMAL(2, 3), event=1),
    slope_logits=real(NORMAL(2, 4), event=1),
    look=_value([4, 2]),
  ),
  "PixelsToLogit": row(
    levels=17,
    alpha=number(0.05, 0, 0.5, ends=False),
    look=lambda b: look(b.forward_and_log_det(tf.constant([1.0, 2.0]))),
  ),
  "AsinhTransform": row(
    offset=real(tf.constant(0.1)),
    scale=real(tf.constant(0.05)),
    levels=17,
    look=lambda b: look(b.forward_and_log_det(tf.constant([1.0, 2.0]))),
  ),
  "LogitMargin": row(margin=number(0.05, 0, 0.5, ends=False), look=_value([3, 2])),
  "Squeeze": row(look=_value([4, 4, 2])),
  "ActNorm.initialize": row(
    lambda w: fb.ActNorm(tf.Variable(tf.ones(2)), tf.Variable(tf.zeros(2))).initialize,
    x=real(NORMAL(5, 2), event=1, finite=True),
  ),
  "Invertible1x1Conv.initialize": row(
    lambda w: fb.Invertible1x1Conv(tf.Variable(tf.eye(2)), event_ndims=1).initialize,
    x=real(NORMAL(5, 2), event=1, finite=True),
  ),
}
FUNCTIONS = {
  "affine_coupling_bijector": row(parameters=real(NORMAL(3, 4), event=1, cast="floats"), look=_value([3, 2])),
  "mixture_logistic_coupling_bijector": row(
    parameters=real(NORMAL(3, 2 * 8), event=1, cast="floats"),
    components=2,
    margin=number(0.0, 0, 0.5).also(("upper end", 0.5)),
    look=_value([3, 2]),
  ),
  "rational_quadratic_coupling_bijector": row(
    parameters=real(NORMAL(3, 2 * 8), event=1, cast="floats"), components=2, look=_value([3, 2])
  ),
  "register_coupling": row(
    name=text("mine").also(("empty", ""), ("taken", "affine"), ("a flag", "--mine"), ("a path", "a/b")),
    kind=fb.CouplingKind(lambda components: 1, lambda p, components: fb.Sigmoid()),
    reset=lambda w: COUPLINGS.pop("mine", None),
  ),
  "num_parameters": row(coupling=name("mixture_logistic"), components=count(3, low=0, huge=same(2**62))),
  "split_columns": row(image_shape=(4, 4, 2), look=lambda b: look(b.forward(tf.zeros([4, 4, 2])))),
}


def _rows():
  rows = {**CONSTRUCTORS, **FUNCTIONS}
  for case_name, case in CASES.items():
    cls = type(case.make("float32")).__name__.removeprefix("_Composite")
    for method, made in _methods(case_name, case).items():
      rows[f"{cls}.{method}/{case_name}"] = made
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

"""Bijectors: constructors, the six methods of each, and the functions of mixtures."""

import functools

import numpy as np
import tensorflow as tf

from flowpp_tf import bijectors as fb
from flowpp_tf.core.registry import COUPLINGS
from support import wrong_values as wrong
from support.bijector_cases import CASES, Conditioner, conditioned_coupling
from support.public_callables.row import look, row
from support.public_callables.world import NORMAL

USUAL = dict(ctx=wrong.context(), components=2)
# Axes of events whose size a bijector does not fix, by case: any that can be halved is right.
FREE = {
  **{case: (1, 2) for case in ("conv", "conv_blocks", "conv_lu", "conv_lu_blocks")},
  **{
    case: (1, 2) for case in CASES if case.startswith("coupling_") or case in ("chain", "invert", "context_transform")
  },
  **{case: (1, 2, 3) for case in ("squeeze", "split_columns", "swap_halves")},
}


class Double(fb.Bijector):
  """One that does only what the base class asks for."""

  def __init__(self):
    super().__init__(forward_min_event_ndims=0)

  def _forward_and_log_det(self, x, ctx):
    return 2 * x, tf.math.log(tf.constant(2.0, x.dtype))

  def _inverse_and_log_det(self, y, ctx):
    return y / 2, -tf.math.log(tf.constant(2.0, y.dtype))


def _tensor(case_name, points, bijector, inverse, log_det=False):
  """The argument `x` or `y` of a bijector's methods: parameters fix the sizes, and sizes of 1 are broadcast."""
  free = FREE.get(case_name, ())
  right = {f"size {size} of axis {axis}" for axis in free for size in ("1", "+ 1", "0")}
  right |= {"an axis too few"} if 3 in free else set()
  if case_name == "logit_margin":  # whose inverse float16 does not resolve
    right |= {"float16 tensor", "float16 array"}

  def values(value):
    made = bijector()
    ndims = made.inverse_min_event_ndims if inverse else made.forward_min_event_ndims
    for name, *rest in wrong.real_values(value, event=ndims, cast="" if made.dtype else "floats"):
      if name not in right:
        yield name, *(wrong.CONSTANT if log_det and part is wrong.NAN else part for part in rest)
    if ndims == 0 and len(made.experimental_batch_shape(x_event_ndims=0)):
      yield "size + 1", np.concatenate([value, value[..., :1]], axis=-1)
      yield "size 1", value[..., :1], wrong.same(np.broadcast_to(value[..., :1], value.shape).copy())

  return wrong.Argument(lambda w: points(), values, names=("x", "y"))


def _methods(case_name, make, points, ndims):
  """The rows of the six methods of a bijector, from points that it maps."""
  bijector = functools.cache(make)
  x = functools.cache(lambda: np.asarray(points()))
  y = functools.cache(lambda: np.asarray(bijector().forward(x())))
  event_ndims = wrong.optional(wrong.count(ndims, low=0)).named("x", "y")
  rows = {}
  for method, key, values in (("forward", "x", x), ("inverse", "y", y)):
    of = lambda name: lambda w: getattr(bijector(), name)
    tensor = functools.partial(_tensor, case_name, values, bijector, method == "inverse")
    rows[method] = row(of(method), **{key: tensor()})
    rows[f"{method}_and_log_det"] = row(of(f"{method}_and_log_det"), **{key: tensor()}, ctx=wrong.context())
    log_det = f"{method}_log_det_jacobian"
    rows[log_det] = row(of(log_det), **{key: tensor(log_det=True)}, event_ndims=event_ndims)
  return rows


def _value(*shape):
  """The look at a bijector: its value and log-det of points."""
  points = NORMAL(*shape)
  return lambda bijector: look(bijector.forward_and_log_det(tf.constant(points, bijector.dtype or "float32")))


def _of_pixels(bijector):
  return look(bijector.forward_and_log_det(tf.constant([1.0, 2.0])))


POSITIVE = wrong.real(np.abs(NORMAL(2)) + 1)
TO_FIT = wrong.real(NORMAL(5, 2), finite=True)
LOGITS, PARAMETERS = wrong.real(NORMAL(2, 3)), wrong.real(NORMAL(3, 16), cast="floats")
# Height and width of a context may be 1, and what its channels are is the matter of the network.
OF_ANY_NETWORK = (
  "size 1 of axis 0",
  "size 1 of axis 1",
  "size + 1 of axis 2",
  "size 0 of axis 2",
  "another dtype tensor",
  "float16 tensor",
)

CONSTRUCTORS = {
  "ActNorm": row(
    scale=POSITIVE,
    bias=wrong.real(NORMAL(2)),
    epsilon=wrong.number(1e-08, low=0),
    min_variance=wrong.number(0.0, low=0),
    look=_value(3, 2),
  ),
  "Standardization": row(mean=wrong.real(NORMAL(2)), stddev=POSITIVE, look=_value(3, 2)),
  "BoundedAffine": row(scale_logit=wrong.real(NORMAL(2)), shift=wrong.real(NORMAL(2)), look=_value(3, 2)),
  "Chain": row(bijectors=wrong.some_of([fb.Sigmoid()]), look=_value(3, 2)),
  "Invert": row(bijector=fb.Invert(fb.Sigmoid()), look=_value(3, 2)),
  "Conditioned": row(
    bijector=lambda w: conditioned_coupling("float32"),
    context=wrong.real(NORMAL(4, 4, 1), event=3).but(*OF_ANY_NETWORK),
    look=_value(4, 4, 2),
  ),
  "ContextTransform": row(
    bijector=fb.Sigmoid(), transform=fb.Standardization([0.0, 0.0], [1.0, 2.0]), look=_value(3, 2)
  ),
  "Coupling": row(
    conditioner=Conditioner("float32", 2),
    bijector_fn=fb.affine_coupling_bijector,
    event_ndims=1,
    dtype=wrong.name("float32"),
    kept=wrong.optional(wrong.count(1, low=0, most=1)),
    look=_value(3, 2),
  ),
  "Invertible1x1Conv": row(kernel=wrong.real(NORMAL(2, 2), event=2, cast="floats"), look=_value(2, 2, 2)),
  "Invertible1x1ConvLU": row(
    lower_upper=wrong.real(NORMAL(2, 2), event=2, cast="floats"),
    permutation=wrong.optional(wrong.shape((1, 0), rank=2, low=None))
    .but("booleans")
    .also(("repeated", [0, 0]), ("too large", [0, 2])),
    look=_value(2, 2, 2),
  ),
  **{
    cls: row(logits=LOGITS, loc=LOGITS, log_scale=LOGITS, look=_value(4, 2))
    for cls in ("LogitMixtureLogisticCDF", "MixtureLogisticCDF")
  },
  "LogitRationalQuadraticCDF": row(
    width_logits=LOGITS, height_logits=LOGITS, slope_logits=wrong.real(NORMAL(2, 4)), look=_value(4, 2)
  ),
  "PixelsToLogit": row(levels=17, alpha=wrong.number(0.05, 0, 0.5, ends=False), look=_of_pixels),
  "AsinhTransform": row(
    offset=wrong.real(tf.constant(0.1)), scale=wrong.real(tf.constant(0.05)), levels=17, look=_of_pixels
  ),
  "box": row(
    low=wrong.real(NORMAL(2), event=0, finite=True),
    high=wrong.real(NORMAL(2) + 5, event=0, cast="all"),
    look=_value(3, 2),
  ),
  "LogitMargin": row(margin=wrong.number(0.05, 0, 0.5, ends=False), look=_value(3, 2)),
  "Squeeze": row(look=_value(4, 4, 2)),
  "Standardization.initialize": row(
    lambda w: fb.Standardization(tf.Variable(tf.zeros(2)), tf.Variable(tf.ones(2))).initialize, x=TO_FIT
  ),
  "ActNorm.initialize": row(
    lambda w: fb.ActNorm(tf.Variable(tf.ones(2)), tf.Variable(tf.zeros(2))).initialize, x=TO_FIT
  ),
  "Invertible1x1Conv.initialize": row(
    lambda w: fb.Invertible1x1Conv(tf.Variable(tf.eye(2)), event_ndims=1).initialize, x=TO_FIT
  ),
}
FUNCTIONS = {
  "affine_coupling_bijector": row(parameters=wrong.real(NORMAL(3, 4), cast="floats"), look=_value(3, 2)),
  "mixture_logistic_coupling_bijector": row(
    parameters=PARAMETERS, margin=wrong.number(0.0, 0, 0.5).also(("upper end", 0.5)), look=_value(3, 2)
  ),
  "rational_quadratic_coupling_bijector": row(parameters=PARAMETERS, look=_value(3, 2)),
  "register_coupling": row(
    name=wrong.text("mine").also(("empty", ""), ("taken", "affine"), ("a flag", "--mine"), ("a path", "a/b")),
    kind=fb.CouplingKind(lambda components: 1, lambda p, components: fb.Sigmoid()),
    reset=lambda w: COUPLINGS.pop("mine", None),
  ),
  "num_parameters": row(
    coupling=wrong.name("mixture_logistic"), components=wrong.count(3, low=0, huge=wrong.same(2**62))
  ),
  "CouplingMap": row(
    coupling=wrong.name("mixture_logistic"),
    components=wrong.count(3, low=0, huge=wrong.same(2**62)),
    margin=wrong.number(0.0, 0, 0.5).also(("upper end", 0.5)),
    offsets=wrong.some_of([0.0] * 11),
  ),
  "split_columns": row(image_shape=(4, 4, 2), look=lambda bijector: look(bijector.forward(tf.zeros([4, 4, 2])))),
}


def _rows():
  rows = {**CONSTRUCTORS, **FUNCTIONS}
  public = {name: case for name, case in CASES.items() if name not in ("box", "simplex", "on_support")}
  for case_name, case in public.items():
    make = lambda case=case: case.make("float32")
    cls = type(make()).__name__.removeprefix("_Composite")
    points = lambda case=case: case.sample((2, *case.event), "float32")
    for method, made in _methods(case_name, make, points, 3).items():
      rows[f"{cls}.{method}/{case_name}"] = made
  for method, made in _methods("double", Double, lambda: NORMAL(3, 2), 1).items():
    rows[f"Bijector.{method}"] = made
  return rows


ROWS = _rows()

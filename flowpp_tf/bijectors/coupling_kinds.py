"""Kinds of couplings: the transformation of each, under the name that configs and --coupling give it."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from flowpp_tf.core.checks import check_arguments, check_count, check_number, check_type
from flowpp_tf.core.errors import InputError
from flowpp_tf.core.registry import COUPLINGS, register, registered


class CouplingKind(NamedTuple):
  """The transformation of a kind of coupling; core/registry.py names the kinds.

  Attributes:
    num_parameters: function of the number of components K, which returns how many parameters a conditioner gives for
      each transformed value.
    bijector_fn: function `(parameters [..., C num_parameters], components) -> elementwise bijector` of `[..., C]`.

  Examples:
    >>> shift = fpp.bijectors.CouplingKind(lambda components: 1, lambda p, components: tfp.bijectors.Shift(p))
    >>> shift.num_parameters(8)
    1
  """

  num_parameters: Callable[[int], int]
  bijector_fn: Callable[[Any, int], tfp.bijectors.Bijector]


@dataclasses.dataclass(frozen=True)
class CouplingMap:
  """The `bijector_fn` of a coupling of a kind: callable `parameters -> elementwise bijector`.

  Attributes:
    coupling: name of the kind, such as "mixture_logistic" or "affine".
    components: K, the number of logistics in a mixture.
    margin: m of `mixture_logistic_coupling_bijector`; other kinds have none.
    offsets: numbers that are added to the parameters of each transformed value, `num_parameters` of them; () for none.
      Components that begin with equal parameters stay equal.

  Raises:
    InputError (a ValueError): for an unknown kind, or another number of components or offsets.

  Examples:
    >>> mixture = fpp.bijectors.CouplingMap("mixture_logistic", components=4)
    >>> mixture(tf.zeros([5, 2 * 14])).forward(tf.ones([5, 2])).shape
    TensorShape([5, 2])
  """

  coupling: str
  components: int = 0
  margin: float = 0.0
  offsets: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    count = num_parameters(self.coupling, self.components)
    check_number("margin", self.margin, 0)
    check_type("offsets", self.offsets, Sequence[float])
    object.__setattr__(self, "offsets", tuple(self.offsets))  # which can be hashed
    if len(self.offsets) not in (0, count):
      raise InputError(f"`offsets` must be the {count} of one value, or none, got {len(self.offsets)}")

  def __call__(self, parameters: tf.Tensor) -> tfp.bijectors.Bijector:
    """Return the bijector of parameters `[..., C num_parameters]`."""
    if self.offsets:
      offsets = np.tile(self.offsets, parameters.shape[-1] // len(self.offsets))
      parameters += tf.constant(offsets, parameters.dtype)
    options = {"margin": self.margin} if self.margin else {}
    return registered(COUPLINGS, self.coupling).bijector_fn(parameters, components=self.components, **options)


def num_parameters(coupling: str, components: int) -> int:
  """Return how many parameters a conditioner gives for each transformed value.

  Args:
    coupling: kind of coupling, such as "mixture_logistic" (2 + 3 `components`) or "affine" (2).
    components: K, the number of logistics in the mixture.

  Raises:
    ValueError: if no kind has this name.

  Examples:
    >>> fpp.bijectors.num_parameters("mixture_logistic", components=8)
    26
  """
  check_count("components", components, 0, 2**63 - 1)
  if not isinstance(coupling, str) or coupling not in COUPLINGS:
    raise InputError(f"`coupling` must be {' or '.join(COUPLINGS)}, got {coupling!r}")
  return registered(COUPLINGS, coupling).num_parameters(components)


@check_arguments
def register_coupling(name: str, kind: CouplingKind) -> None:
  """Give a kind of coupling a name, for configs; programs import a module that calls this by --import=MODULE.

  Args:
    name: for `coupling` of a config, and for --coupling.
    kind: the transformation.

  Raises:
    InputError (a ValueError): if a coupling has the name already.

  Examples:
    >>> shift = fpp.bijectors.CouplingKind(lambda components: 1, lambda p, components: tfp.bijectors.Shift(p))
    >>> fpp.register_coupling("shift", shift)
    >>> fpp.Recipe.load("digits").replace(coupling="shift").config.coupling
    'shift'
  """
  register("coupling", COUPLINGS, name, kind)

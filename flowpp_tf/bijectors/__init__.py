"""The mathematics of Flow++ as TFP bijectors: one file for each component of the paper."""

from flowpp_tf.bijectors.base import Bijector
from flowpp_tf.bijectors.chain import Chain, Invert
from flowpp_tf.bijectors.conditioned import Conditioned, ContextTransform
from flowpp_tf.bijectors.coupling import Coupling
from flowpp_tf.bijectors.coupling_kinds import CouplingKind, CouplingMap, num_parameters, register_coupling
from flowpp_tf.bijectors.elementwise import (
  AsinhTransform,
  BoundedAffine,
  LogitMargin,
  PixelsToLogit,
  Sigmoid,
  affine_coupling_bijector,
)
from flowpp_tf.bijectors.invertible_conv import Invertible1x1Conv, Invertible1x1ConvLU
from flowpp_tf.bijectors.mixture_logistic_cdf import (
  LogitMixtureLogisticCDF,
  MixtureLogisticCDF,
  mixture_logistic_coupling_bijector,
)
from flowpp_tf.bijectors.normalization import ActNorm, Standardization
from flowpp_tf.bijectors.rational_quadratic import LogitRationalQuadraticCDF, rational_quadratic_coupling_bijector
from flowpp_tf.bijectors.squeeze import ColumnsToChannels, Squeeze, SwapHalves, split_columns

"""Hard cases of the mixture of logistics, and their truth to 40 digits.

The grid is the product of

    x           0, +-1, +-17 (from where a logit of a CDF overflows in float32), +-1000, +-1000000
    K           1, 2, 8, 64 components
    weights     equal; falling to exp(-80); the smallest, exp(-80), on the leftmost component
    log scales  all -7; from -7 to 2; all 0
    means       spread over +-2; all equal, as freshly initialised networks have them
"""

import itertools

import mpmath
import numpy as np

mpmath.mp.dps = 40

_X = [0.0, *(sign * size for size in (1.0, 17.0, 1e3, 1e6) for sign in (-1, 1))]
_LOGITS = {"equal": np.zeros, "falling": lambda k: np.linspace(0, -80, k), "rising": lambda k: np.linspace(-80, 0, k)}
_LOG_SCALES = {
  "narrow": lambda k: np.full(k, -7.0),
  "mixed": lambda k: np.random.RandomState(1).permutation(np.linspace(-7, 2, k)),
  "unit": np.zeros,
}
_LOCS = {
  "spread": lambda k: np.linspace(-2, 2, k) + 0.1 * np.random.RandomState(2).randn(k),
  "equal": lambda k: np.full(k, 0.3),
}


def grid(components, dtype):
  """x `[N]` and logits, loc, log_scale `[N, K]` of all cases with K components, as NumPy arrays."""
  cases = list(itertools.product(_X, *(f.values() for f in (_LOGITS, _LOCS, _LOG_SCALES))))
  x = np.array([case[0] for case in cases], dtype)
  return x, *(np.array([case[i](components) for case in cases], dtype) for i in (1, 2, 3))


def truth(x, logits, loc, log_scale):
  """What the mixture is at one point, by its definition, with 40 digits.

  Returns:
    `dict` of log_cdf, log_survival, log_prob, value (logit of the CDF), log_derivative (of that) as
    floats, and the gradients of the last two as `value_gradients` and `log_derivative_gradients`: by
    x, and lists by logits, loc, log_scale.
  """
  mpf, exp, fsum = (lambda v: mpmath.mpf(float(v))), mpmath.exp, mpmath.fsum
  weights = [exp(mpf(logit)) for logit in logits]
  total = fsum(weights)
  scales = [exp(mpf(s)) for s in log_scale]
  z = [(mpf(x) - mpf(m)) / s for m, s in zip(loc, scales)]
  pi = [w / total for w in weights]
  below, above = [1 / (1 + exp(-v)) for v in z], [1 / (1 + exp(v)) for v in z]
  cdf = fsum(w * b for w, b in zip(pi, below))
  survival = fsum(w * a for w, a in zip(pi, above))
  terms = [w * b * a / s for w, b, a, s in zip(pi, below, above, scales)]
  density = fsum(terms)
  out = dict(
    log_cdf=mpmath.log(cdf),
    log_survival=mpmath.log(survival),
    log_prob=mpmath.log(density),
    value=mpmath.log(cdf) - mpmath.log(survival),
    log_derivative=mpmath.log(density) - mpmath.log(cdf) - mpmath.log(survival),
  )
  p = [w * b / cdf for w, b in zip(pi, below)]
  r = [w * a / survival for w, a in zip(pi, above)]
  q = [t / density for t in terms]
  by_z = [t * s / (cdf * survival) for t, s in zip(terms, scales)]
  log_by_z = [qi * (a - b) - pi_ * a + ri * b for qi, pi_, ri, a, b in zip(q, p, r, above, below)]
  chain = lambda by_z, direct: [
    fsum(d / s for d, s in zip(by_z, scales)),
    None,
    [-d / s for d, s in zip(by_z, scales)],
    [direct_ - d * v for direct_, d, v in zip(direct, by_z, z)],
  ]
  value_gradients = chain(by_z, [0] * len(z))
  value_gradients[1] = [pi_ - ri for pi_, ri in zip(p, r)]
  log_gradients = chain(log_by_z, [-v for v in q])
  log_gradients[1] = [qi - pi_ - ri + w for qi, pi_, ri, w in zip(q, p, r, pi)]
  floats = lambda v: [float(e) for e in v] if isinstance(v, list) else float(v)
  return {
    **{k: float(v) for k, v in out.items()},
    "value_gradients": [floats(v) for v in value_gradients],
    "log_derivative_gradients": [floats(v) for v in log_gradients],
  }

"""The mixture CDF of a trained coupling, and how the library's own search inverts it."""

import functools

import numpy as np
import style
import tensorflow as tf

import flowpp_tf as fpp
from flowpp_tf.bijectors import LogitMixtureLogisticCDF, mixture_quantile

PRESET, SAMPLES, SEED = "digits", 20, 0


def mixtures():
  """Yield what the couplings of a preset invert as it samples: pairs of a mixture and its targets."""
  model = fpp.FlowPlusPlus.from_preset(PRESET)
  y = model.sample_latents(SAMPLES, seed=SEED)
  for part in model.coupling_flow.bijector.bijectors:  # the last one that is applied to data comes first
    if isinstance(part, fpp.bijectors.Coupling):
      y1, y2 = tf.split(y, 2, axis=-1)
      affine, *_, mixture = part.bijector_fn(part.conditioner(y1)).bijectors
      assert isinstance(mixture, LogitMixtureLogisticCDF)
      yield mixture, affine.inverse(y2)
    y = part.inverse(y)


@functools.cache
def search():
  """The search of the library that takes the most evaluations of all, and its steps.

  Returns:
    `LogitMixtureLogisticCDF` of one value, its target, and arrays of x, low and high: at first, and after each step.
  """
  most, hardest = 0, None
  for mixture, targets in mixtures():
    evaluations = mixture_quantile.search(targets, *mixture._mixture())[1].numpy()
    if evaluations.max() > most:
      most, place = evaluations.max(), np.unravel_index(evaluations.argmax(), evaluations.shape)
      parameters = [np.asarray(p)[place] for p in mixture._mixture()]
      hardest = LogitMixtureLogisticCDF(*parameters), targets[place]
  mixture, target = hardest
  state, step, sign = mixture_quantile._newton(target, *mixture._mixture())
  states = [state]
  while states[-1][-1]:
    states.append(step(*states[-1]))
  root, evaluations = mixture_quantile.search(target, *mixture._mixture())
  assert states[-1][0] * sign == root and states[-1][1] == evaluations == most
  x, _, low, high, *_ = np.array([[float(value) for value in state] for state in states]).T
  if sign < 0:
    low, high = high, low
  return mixture, float(target), *(float(sign) * values for values in (x, low, high))


def mixture_cdf(theme):
  """The logit of a mixture's CDF, the search for the x at which it is the target, and the bracket that shrinks."""
  mixture, target, x, low, high = search()
  fig, ((top,), (below,)) = style.figure(theme, 7.0, 2, sharex=True, gridspec_kw=dict(height_ratios=(3, 2)))
  margin = 0.08 * (high[0] - low[0])
  xs = np.linspace(low[0] - margin, high[0] + margin, 300).astype(np.float32)
  logits = mixture.forward(xs).numpy()
  scale = np.exp(mixture.log_scale)
  for mean, width in zip(mixture.loc, scale):  # a component's quantile is where its line crosses the target
    ends = xs[[0, -1]]
    top.plot(ends, (ends - mean) / width, color=theme.faint, linewidth=1.2, zorder=0)
  top.plot(xs, logits, color=theme.ours, linewidth=3)
  top.axhline(target, color=theme.other, linewidth=2)
  for i in range(len(x) - 1):
    if not bisected(i, x, low, high):  # a tangent, from the curve to the target
      height = float(mixture.forward(np.float32(x[i])))
      top.plot(x[i : i + 2], [height, target], color=theme.training, linewidth=1.6)
  name = f"mixture of {len(scale)} logistics"
  top.text(0.74, 0.95, name, color=theme.ours, ha="right", va="top", transform=top.transAxes)
  top.text(low[0], target + 0.06, "target y", color=theme.other, ha="left", va="bottom")
  top.set(ylim=(target - 1.6, logits[-1] + 0.3), ylabel="logit F(x)")
  probability = top.secondary_yaxis("right")
  shares = [share for share in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9) if np.log(share / (1 - share)) < top.get_ylim()[1]]
  probability.set_yticks([np.log(share / (1 - share)) for share in shares], [str(share) for share in shares])
  probability.set_ylabel("F(x)", color=theme.text)
  probability.spines["right"].set_color(theme.muted)
  probability.tick_params(colors=theme.muted, labelcolor=theme.text)
  for i, (begin, end) in enumerate(zip(low, high)):
    below.plot([begin, end], [i, i], color=theme.codec, linewidth=7, solid_capstyle="butt")
  for i, value in enumerate(x):
    color = theme.muted if i == 0 else theme.other if bisected(i - 1, x, low, high) else theme.training
    for ax, y in ((top, float(mixture.forward(np.float32(value)))), (below, i)):
      ax.plot(value, y, "s" if color == theme.other else "o", color=color, markersize=8, zorder=3)
  below.set(ylim=(len(x) - 0.4, -0.6), yticks=range(0, len(x), 2), xlabel="x", ylabel="Newton iteration")
  below.text(low[0], 1.6, "bracket", color=theme.muted, ha="left", va="center")
  below.text(low[0], 3.6, "x from a Newton step", color=theme.training, ha="left", va="center")
  below.text(low[0], 5.0, "x from a bisection", color=theme.other, ha="left", va="center")
  return fig


def bisected(i, x, low, high):
  """Whether iteration `i + 1` halved the bracket."""
  return bool(np.isclose(x[i + 1], (low[i + 1] + high[i + 1]) / 2, rtol=1e-6))

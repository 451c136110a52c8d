"""What visitors of the site's home page can look at without a server: parts of bin/demo, computed once.

They are a fragment of HTML, docs/widgets.html, which holds its pictures; .ci/site.py puts it into the home page.
"""

import numpy as np
import samples

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from flowpp_tf.demo import charts, figures
from flowpp_tf.demo.engine import Engine, KnownImages
from flowpp_tf.evaluation import heat_map, interpolate

PATH = samples.style.IMAGES.parent / "widgets.html"
PRESET, TEMPERATURES, SIDE, FRAMES = "fashion_mnist", (0.7, 0.85, 1.0), 4, 24
_SLIDE = (
  "this.parentElement.querySelector('.film').style.setProperty('--frame', this.value);"
  "this.setAttribute('aria-valuetext', 'frame ' + this.value)"
)


def html():
  """Return the fragment: samples, an interpolation, and the bits of an image; no line is blank, as Markdown needs."""
  parts = {"Samples": samples_html(), "Between two images": interpolation_html(), "The bits of an image": bits_html()}
  sections = "\n".join(f"<section><h3>{title}</h3>\n{content}\n</section>" for title, content in parts.items())
  return f'<div class="widgets">\n{sections}\n</div>\n'


def samples_html():
  """The same latents at several temperatures."""
  model, walls = samples.batched(PRESET), []
  for temperature in TEMPERATURES:
    images = model.decode(samples.latents(PRESET, SIDE**2, temperature))
    rows = [np.concatenate(images[i : i + SIDE], axis=1) for i in range(0, len(images), SIDE)]
    picture = figures.thumbnail(np.concatenate(rows), model.model.config.levels)
    walls.append(figures.figure(picture, f"temperature {temperature}"))
  return (
    f"{figures.row(walls)}\n<p>The same {SIDE**2} latents, seed {samples.SEED}, of the preset <code>{PRESET}</code>: "
    "a lower temperature gives more usual images, and less variety.</p>"
  )


def interpolation_html():
  """A slider through latent space, from the one of two samples to the other."""
  model = samples.batched(PRESET)
  ends = model.decode(samples.latents(PRESET, 7, 0.8))
  film = figures.film(interpolate(model, ends[0], ends[4], FRAMES, samples.SEED), model.model.config.levels)
  slider = f'<input type="range" min="0" max="{FRAMES - 1}" value="0" aria-label="Frame" oninput="{_SLIDE}">'
  return (
    f"<div>{film}{slider}</div>\n"
    "<p>Both ends are samples; each frame between them is the image of a latent on the way.</p>"
  )


def bits_html():
  """The place of a test image among others, and where its bits are."""
  data = load_dataset("digits")
  engine = Engine(fpp.FlowPlusPlus.from_preset("digits"), known=KnownImages(data.train, data.test))
  image = np.asarray(data.test[:1])
  bits, (of, values) = engine.positions(image), engine.references
  maps = [figures.figure(figures.thumbnail(image[0], engine.config.levels), "a test image of digits")]
  for name, part in (("all its bits", bits.total), ("prior", bits.prior), ("log-det", bits.log_det)):
    maps.append(figures.figure(heat_map(part[0]), f"{name}: {part.sum():.0f}"))
  histogram = charts.histogram(values, float(engine.bound(image)[0]), of)
  return (
    f"{figures.row(maps)}\n{histogram}\n<p>Bright positions take more bits. Prior, log-det and what the dequantizer "
    "takes add up to all bits.</p>"
  )

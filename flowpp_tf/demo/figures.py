"""Small pictures of the page as HTML: enlarged by the browser, so that an answer takes a few kilobytes."""

import base64
import html
import io

import numpy as np
from PIL import Image

from flowpp_tf.evaluation import to_shades


def figure(picture: Image.Image, caption: str) -> str:
  """Return a picture with a caption under it, which is its text for those who do not see it too."""
  caption = html.escape(caption)
  return f"<figure><img src='{data_uri(picture)}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def row(figures: list[str]) -> str:
  """Return figures in a row, which breaks where the page is narrow."""
  return f"<div class='figures'>{''.join(figures)}</div>"


def thumbnail(image: np.ndarray, levels: int) -> Image.Image:
  """Return an image `[H, W, C]` of a model as a picture of its size."""
  pixels = to_shades(image, levels)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def film(images: np.ndarray, levels: int) -> str:
  """Return frames `[F, H, W, C]` of which one is seen, that of the number `--frame` of CSS."""
  strip = np.concatenate([*images], axis=0)
  _, height, width, _ = images.shape
  return (
    f"<div class='film' data-frames='{len(images)}' style='--frames:{len(images)};--frame:0;"
    f"aspect-ratio:{width}/{height}'>"
    f"<img src='{data_uri(thumbnail(strip, levels))}' alt='Frames between two images'></div>"
  )


def data_uri(picture: Image.Image) -> str:
  """Return a picture as an address that holds it, as PNG."""
  file = io.BytesIO()
  picture.save(file, "PNG")
  return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

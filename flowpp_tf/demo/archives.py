"""What an archive of one image says beside files of other codecs."""

import html
import io

import numpy as np

from flowpp_tf.core.errors import InputError
from flowpp_tf.demo import charts, figures
from flowpp_tf.evaluation import codec_bytes


def archive_html(image: np.ndarray, size: int, bound: float, name: str, model_flag: str, fitted: str) -> str:
  """Return HTML with the bytes of an archive, of the bound, and of other lossless files.

  Args:
    image: integers `[H, W, C]`.
    size: bytes of the archive.
    bound: bytes by the single-sample bound.
    name: of the archive.
    model_flag: what names the model to `bin/decompress`.
    fitted: how the image differs from its file, "" if it does not.
  """
  others, missing = _others(image)
  sizes = {"by its bound": bound, "this archive": size, **others}
  command = html.escape(f"bin/decompress {name} {model_flag} --output=image.npy")
  held = f"<p>It holds the image as the model sees it. {html.escape(fitted)}</p>" if fitted else ""
  return (
    f"{charts.size_bars(sizes)}<p>The archive of one image has a header, and the bits that bits-back coding begins "
    f"with: {size - bound:,.0f} bytes more than the bound. Many images in one archive share them. The pixels as "
    f"numbers are {image.nbytes:,} bytes.{missing}</p><p>To decode it: <code>{command}</code></p>{held}"
  )


def _others(image):
  """Bytes of the image in other formats, and a sentence on those that are missing."""
  try:
    sizes = codec_bytes(image)
    return {name: sizes[name] for name in ("PNG", "WebP", "JPEG XL") if name in sizes}, ""
  except InputError as error:
    if image.dtype == np.uint16:
      return {}, f" Other formats are not shown: {html.escape(str(error))}."
    file = io.BytesIO()
    figures.thumbnail(image, 256).save(file, "PNG", optimize=True)  # values as they are, as in `codec_bytes`
    return {"PNG": file.getbuffer().nbytes}, f" WebP and JPEG XL are not shown: {html.escape(str(error))}."

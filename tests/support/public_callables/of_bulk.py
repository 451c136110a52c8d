"""Functions of batches for engines."""

from flowpp_tf import bulk
from support import wrong_values as wrong
from support.public_callables.row import look, row
from support.public_callables.world import IMAGES

BATCH = {"image": IMAGES}
OF_BATCHES = wrong.images(IMAGES, 8).named("image")
USUAL = dict(
  model=wrong.path(lambda w: w.preset).but("list"),
  num_samples=2,
  batch_size=wrong.count(2, most=1 << 16),
  output=wrong.path(lambda w: w.new("archives"), there=False),
)

ROWS = {
  "ScoreImages": row(look=lambda score: look(score(BATCH)["bits_per_dim"])),
  "ScoreImages.__call__": row(
    lambda w: lambda image: bulk.ScoreImages(w.preset, 1, 0, 3)({"image": image})["bits_per_dim"], image=OF_BATCHES
  ),
  "EncodeImages": row(look=lambda encode: look(encode(BATCH)["latent"])),
  "EncodeImages.__call__": row(
    lambda w: lambda image: bulk.EncodeImages(w.preset, 0, 3)({"image": image})["latent"], image=OF_BATCHES
  ),
  "CompressImages": row(look=lambda compress: look(compress(BATCH)["position"])),
  "CompressImages.__call__": row(
    lambda w: lambda image: bulk.CompressImages(w.preset, w.new("archives"))({"image": image})["position"],
    image=OF_BATCHES,
  ),
}

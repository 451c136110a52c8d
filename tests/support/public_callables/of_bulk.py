"""Functions of batches for engines."""

from flowpp_tf import bulk
from support.public_callables.of_evaluation import PICTURES, SAMPLES
from support.public_callables.row import look, row
from support.public_callables.world import IMAGES
from support.wrong_values import count, path

MODEL = path(lambda w: w.preset).but("list")
BATCH = {"image": IMAGES}
OF_BATCHES = PICTURES.named("image")

ROWS = {
  "ScoreImages": row(
    model=MODEL,
    num_samples=SAMPLES,
    batch_size=count(2, most=1 << 16),
    look=lambda score: look(score(BATCH)["bits_per_dim"]),
  ),
  "ScoreImages.__call__": row(
    lambda w: lambda image: bulk.ScoreImages(w.preset, 1, 0, 3)({"image": image})["bits_per_dim"], image=OF_BATCHES
  ),
  "EncodeImages": row(
    model=MODEL, batch_size=count(2, most=1 << 16), look=lambda encode: look(encode(BATCH)["latent"])
  ),
  "EncodeImages.__call__": row(
    lambda w: lambda image: bulk.EncodeImages(w.preset, 0, 3)({"image": image})["latent"], image=OF_BATCHES
  ),
  "CompressImages": row(
    model=MODEL,
    output=path(lambda w: w.new("archives"), there=False),
    look=lambda compress: look(compress(BATCH)["position"]),
  ),
  "CompressImages.__call__": row(
    lambda w: lambda image: bulk.CompressImages(w.preset, w.new("archives"))({"image": image})["position"],
    image=OF_BATCHES,
  ),
}

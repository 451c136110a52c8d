"""Functions of batches for engines."""

from flowpp_tf import bulk
from support.public_callables.of_evaluation import PICTURES, SAMPLES
from support.public_callables.row import Row, look
from support.public_callables.world import IMAGES
from support.wrong_values import count, flag, path, seed, text

MODEL = path(lambda w: w.preset).but("list")
BATCH = {"image": IMAGES}
OF_BATCHES = PICTURES.named("image")

ROWS = {
  "ScoreImages": Row(
    lambda w: bulk.ScoreImages,
    dict(model=MODEL, num_samples=SAMPLES, seed=seed(0), batch_size=count(2, most=1 << 16)),
    lambda score: look(score(BATCH)["bits_per_dim"]),
  ),
  "ScoreImages.__call__": Row(
    lambda w: lambda image: bulk.ScoreImages(w.preset, 1, 0, 3)({"image": image})["bits_per_dim"],
    dict(image=OF_BATCHES),
  ),
  "EncodeImages": Row(
    lambda w: bulk.EncodeImages,
    dict(model=MODEL, seed=seed(0), batch_size=count(2, most=1 << 16)),
    lambda encode: look(encode(BATCH)["latent"]),
  ),
  "EncodeImages.__call__": Row(
    lambda w: lambda image: bulk.EncodeImages(w.preset, 0, 3)({"image": image})["latent"], dict(image=OF_BATCHES)
  ),
  "CompressImages": Row(
    lambda w: bulk.CompressImages,
    dict(
      model=MODEL, output=path(lambda w: w.new("archives"), there=False), tier=text("portable"), embed_model=flag(False)
    ),
    lambda compress: look(compress(BATCH)["position"]),
  ),
  "CompressImages.__call__": Row(
    lambda w: lambda image: bulk.CompressImages(w.preset, w.new("archives"))({"image": image})["position"],
    dict(image=OF_BATCHES),
  ),
}

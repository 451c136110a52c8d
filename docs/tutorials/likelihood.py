# %% [markdown]
# # What likelihood can and cannot tell
#
# An exact likelihood invites to call images with a low one anomalous. That works for some images and fails for
# others, and this page shows both, with a model that is trained on digits.

# %%
import numpy as np

import flowpp_tf as fpp
from flowpp_tf.data import load_dataset
from flowpp_tf.evaluation import Scorer

# %%
model = fpp.FlowPlusPlus.from_preset("digits")
digits = load_dataset("digits")
test, rng = digits.test[:60], np.random.RandomState(0)
others = {
  "test digits": test,
  "noise": rng.randint(0, 17, test.shape).astype(np.uint8),
  "digits, upside down": test[:, ::-1],
  "digits, pixels shuffled": test.reshape(60, -1)[:, rng.permutation(64)].reshape(test.shape),
  "blank": np.zeros_like(test),
  "half as dark": test // 2,
}

# %%
scorer = Scorer(model, num_samples=4)
scorer.typical = float(np.mean(scorer.bits_per_dim(digits.validation, 100)))
print(f"{'':24}{'bits/dim':>10}{'typicality':>12}{'corrected':>11}")
for name, images in others.items():
  scores = scorer(np.ascontiguousarray(images), 60)
  print(
    f"{name:24}{scores['bits_per_dim'].mean():10.2f}{scores['typicality'].mean():12.2f}"
    f"{scores['complexity_corrected'].mean():11.2f}"
  )

# %% [markdown]
# Noise and shuffled pixels have more bits/dim than digits: they are found. Blank images have fewer, though the
# model has never seen one: simple images are likely under every model of images. **Typicality**, the distance
# from the mean of validation, finds these. The **corrected** score subtracts what a PNG needs, since a simple
# image is simple for every codec.
#
# No score finds all of them. Which finds what, with AUROC against ten sets of images, and how to choose one for
# your images: [scores](../scoring.md). `flowpp-score --workdir=... --images=folder --output=scores.csv` writes
# them for a folder.

# %% [markdown]
# # What likelihood can and cannot tell
#
# An exact likelihood tempts us to call images with a low one anomalous. That works for some images and fails for
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
  "two columns, rest black": np.where(np.isin(np.arange(8), (3, 4))[:, np.newaxis], test, 0),
  "half as dark": test // 2,
}

# %%
scorer = Scorer(model, num_samples=4)
scorer.typical = float(np.mean(scorer.bits_per_dim(digits.validation, 100)))
means = {}
print(f"{'':24}{'bits/dim':>10}{'typicality':>12}{'corrected':>11}")
for name, images in others.items():
  scores = scorer(np.ascontiguousarray(images), 60)
  means[name] = {key: float(scores[key].mean()) for key in ("bits_per_dim", "typicality", "complexity_corrected")}
  print(f"{name:24}" + "".join(f"{value:{width}.2f}" for value, width in zip(means[name].values(), (10, 12, 11))))

# %% [markdown]
# **Noise and shuffled pixels** have many times the bits/dim of digits: every score finds them.

# %%
for name in ("noise", "digits, pixels shuffled"):
  for score in ("bits_per_dim", "typicality", "complexity_corrected"):
    assert means[name][score] > means["test digits"][score] + 5, (name, score)

# %% [markdown]
# **Two columns of a digit** on black are *more* likely than digits, though the model has never seen such an image: a
# simple image is likely under every model of images. So bits/dim do not find them. By **typicality**, the distance of
# an image's bits/dim from the mean of validation, they are about as typical as digits. The **corrected** score
# subtracts what a PNG needs, and finds them, since a simple image is simple for every codec.

# %%
typicality = {name: row["typicality"] for name, row in means.items()}
corrected = {name: row["complexity_corrected"] for name, row in means.items()}
assert means["two columns, rest black"]["bits_per_dim"] < means["test digits"]["bits_per_dim"]
assert abs(typicality["two columns, rest black"] - typicality["test digits"]) < 0.05
assert corrected["two columns, rest black"] > corrected["test digits"] + 1

# %% [markdown]
# **Digits upside down** are a little less likely than digits, and compress as well. Of these rows the correction
# separates them least: it pays where complexity is a clue, and only adds noise where it is not.

# %%
assert means["test digits"]["bits_per_dim"] < means["digits, upside down"]["bits_per_dim"] < 3
assert min(others.keys() - {"test digits"}, key=corrected.get) == "digits, upside down"

# %% [markdown]
# No score finds all images of another kind. Which finds what, with AUROC against ten sets of images, and how to
# choose one for your images: [scores](../../scoring/). `flowpp-score --workdir=... --images=folder
# --output=scores.csv` writes them for a folder.

"""The numbers of the authors' releases in tests/reference, whose README says what they are."""

import json

import numpy as np

from support.programs import REFERENCE


def reference(name):
  """The arrays of a reference, with `variables`: the release's weights by name."""
  with np.load(REFERENCE / f"{name}.npz") as file:
    arrays = dict(file)
  flat = np.ascontiguousarray(arrays.pop("weights").T).view(np.float16).ravel().astype(np.float64)
  variables = {}
  for key, shape in json.loads(str(arrays["index"])):
    size = int(np.prod(shape))
    variables[key], flat = flat[:size].reshape(shape), flat[size:]
  assert flat.size == 0
  return {**arrays, "variables": variables}

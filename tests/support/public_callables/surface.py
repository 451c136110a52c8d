"""Which callables are public: what `flowpp_tf` and its rooms export, and the methods of the classes among them."""

import functools
import importlib
import inspect

from support.public_callables.kinds import parameters

ROOMS = (
  "",
  "bijectors",
  "layers",
  "distributions",
  "models",
  "exporting",
  "compression",
  "data",
  "training",
  "evaluation",
  "bulk",
  "posterior.support",
  "config",
)
# Arguments of every callable that belong to TFP, Keras or Python.
FOREIGN_ARGUMENTS = {
  "validate_args": "TFP's own: every bijector and distribution takes it",
  "parameters": "TFP's own: what subclasses hand to it",
  "name": "TFP's and Keras' own name of an object, unless a row has it",
}
# Methods that Keras calls by itself, of layers and models.
_HOOKS = (
  "build compute_output_shape compute_output_spec load_own_variables make_train_function predict_step "
  "save_own_variables test_step train_step"
).split()
# Callables without rows, and why.
WITHOUT_ROWS = {
  "exceptions, which the package raises": "ArchiveError Diverged InputError LostImagesError Stopped",
  "records that functions of the package return or hand on": (
    "BitsPerDim Bound Calibration CouplingKind Classification CodecBits CouplingConfig FeatureNetwork InitialWeights "
    "PositionBits Reconstruction SampleQuality ValidationStatistics"
  ),
  "the base class, whose constructor is TFP's": "Bijector",
  "only names and `validate_args`": "ColumnsToChannels Sigmoid SwapHalves",
  "helpers of the package, no part of the room": "dataset_entry check_arguments check_count check_shape_of_images",
  "what Keras calls by itself": (
    "Flow.from_config VectorFlow.from_config Adam Adam.update_step PiecewiseSchedule.__call__"
  ),
  "what the training loop calls, of its own store and workers": (
    "Workdir.add_row Workdir.check Workdir.new_checkpoints Workdir.open Workdir.recover "
    "Workdir.save_best Workers.agree Workers.any Workers.broadcast Workers.broadcast_array train_step"
  ),
  "what segments call, with their own stack": "Codec.conditioned_on Codec.pays_in_threads Codec.pop Codec.push",
  "what `compress_to` and `write_pictures` call, with their own contents": "ArchiveWriter.write_segments",
  "what the pipeline calls, with places that it has drawn": (
    "RandomCrops.cut RandomCrops.cut_regions RandomCrops.grid_places RandomCrops.inside RandomCrops.random_places "
    "ReducedBits.reduce"
  ),
  "NumPy's indexing": "GaussianFields.__getitem__ RandomCrops.__getitem__ ReducedBits.__getitem__",
  "what its constructor has given it already": "VariationalDequantization.given",
  "the steps of a layer, which other layers call": (
    "Dropout.apply Dropout.keep_mask Dropout.scale GatedAttention.mix GatedPointwise.mix InitNormConv2D.after "
    "InitNormDense.after"
  ),
  "TFP's own slices": "VariationalDequantization.__getitem__",
  "what the rows of `call` call": "Flow.__call__ VectorFlow.__call__",
  "TFP's own method, which calls `kl_divergence` of the flow": (
    "FlowDistribution.cross_entropy VariationalDequantization.cross_entropy ImageDistribution.cross_entropy "
    "VariationalDequantization.kl_divergence ImageDistribution.kl_divergence"
  ),
}
# Arguments without a row, and why.
WITHOUT_CASES = {
  "FlowPlusPlus.fit": {
    "Keras' own": "batch_size epochs verbose callbacks validation_split",
    "as `x`": "validation_data",
  },
  "FlowPlusPlus.evaluate": {"Keras' own": "batch_size verbose sample_weight"},
  "Dropout": {"Keras' own": "noise_shape seed"},
  **{
    f"{name}.__call__": {"a dict, whose column `image` has cases": "batch"}
    for name in ("CompressImages", "EncodeImages", "ScoreImages")
  },
}


@functools.cache
def public_things():
  """Each public callable, by "Class.method", "function" or "Class"."""
  found = {}
  for room in ROOMS:
    module = importlib.import_module(f"flowpp_tf.{room}" if room else "flowpp_tf")
    for name in getattr(module, "__all__", None) or dir(module):
      thing = getattr(module, name)
      if (
        name.startswith("_") or not callable(thing) or not str(getattr(thing, "__module__", "")).startswith("flowpp_tf")
      ):
        continue
      found[thing.__name__] = thing
      if inspect.isclass(thing):
        found.update({f"{thing.__name__}.{method}": getattr(thing, method) for method in _methods(thing)})
  return found


@functools.cache
def public_callables():
  """The arguments of each public callable that takes some."""
  found = {name: _arguments(thing) for name, thing in public_things().items()}
  return {name: arguments for name, arguments in found.items() if arguments}


def _methods(cls):
  """Names of public methods that the package defines, in the class or in a base class."""
  for name in dir(cls):
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    ours = owner is not None and owner.__module__.startswith("flowpp_tf")
    public = name not in _HOOKS if not name.startswith("_") else name in ("__call__", "__getitem__")
    if ours and public and callable(getattr(cls, name)) and not isinstance(vars(owner)[name], property):
      yield name


def _arguments(thing):
  try:
    found = parameters(thing).values()
  except ValueError:  # an exception's
    return ["args"]
  return [p.name for p in found if p.kind != p.VAR_KEYWORD and not (p.kind == p.VAR_POSITIONAL and len(found) > 2)]

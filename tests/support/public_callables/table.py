"""All rows, by room, and those that are also called in graphs."""

import collections

from support.public_callables import of_bijectors, of_bulk, of_data, of_evaluation, of_layers, of_models, of_training
from support.public_callables.kinds import annotations, argument, parameters
from support.public_callables.row import row
from support.public_callables.surface import (
  FOREIGN_ARGUMENTS,
  WITHOUT_CASES,
  WITHOUT_ROWS,
  public_callables,
  public_things,
)

FILES = {
  "bijectors": of_bijectors,
  "layers": of_layers,
  "models": of_models,
  "evaluation": of_evaluation,
  "data": of_data,
  "training": of_training,
  "bulk": of_bulk,
}


def _completed(file):
  """The rows of a file, and those of the public callables of its rooms of which the file says nothing, completed."""
  named = {name for file in FILES.values() for name in file.ROWS}
  exempt = {name for names in WITHOUT_ROWS.values() for name in names.split()}
  rooms = getattr(file, "GENERATED", ())
  generated = {
    name: row()
    for name, thing in public_things().items()
    if name in public_callables() and name not in named | exempt and thing.__module__.split(".")[1] in rooms
  }
  rows, covered = {**generated, **file.ROWS}, collections.defaultdict(set)
  for name, made in rows.items():
    covered[name.partition("/")[0]].update(made.arguments)
  return {name: _complete(name, made, covered[name.partition("/")[0]], file) for name, made in rows.items()}


def _complete(name, made, covered, file):
  """A row with the kinds of arguments that their annotations say, and with all arguments of which no row says more.

  These are what arguments of that name are in the file, or their default.
  """
  callable_name = name.partition("/")[0]
  owner, _, method = callable_name.partition(".")
  thing, values = public_things()[callable_name], dict(made.arguments)
  hints, objects = annotations(thing), getattr(file, "OBJECTS", {})
  if "/" not in name:
    exempt = {*FOREIGN_ARGUMENTS, *" ".join(WITHOUT_CASES.get(name, {}).values()).split()}
    usual = {**file.USUAL, **getattr(file, "USUAL_OF", {}).get(owner, {})}
    for key, parameter in parameters(thing).items():
      value = usual.get(key, parameter.default)
      if key not in covered | exempt and value is not parameter.empty and argument(hints[key], value) is not None:
        values[key] = value
  arguments = {key: argument(hints.get(key), value) for key, value in values.items()}
  unclear = [key for key, value in arguments.items() if value is None]
  assert not unclear, f"{name}: the annotations of {unclear} do not say which values are wrong"
  make = lambda w: getattr(objects[owner](w), method) if method and owner in objects else thing
  return made._replace(make=made.make or make, arguments=arguments)


# Rows by "Class.method", "function" or "Class", for several rows of one callable with "/case" behind it.
ROOMS = {name: _completed(file) for name, file in FILES.items()}
# Rows that are also called in graphs, each with the arguments that these take in as tensors.
GRAPHS = {
  **{name: [next(iter(row.arguments))] for name, row in ROOMS["bijectors"].items() if "_and_log_det/" in name},
  "FlowDistribution.log_prob": ["value"],
  "FlowDistribution.transform": ["base_sample"],
  "FlowDistribution.given": ["context"],
  "FlowDistribution.given/log_prob": ["value"],
  "FlowPlusPlus.decode": ["z"],
  "FlowPlusPlus.log_prob_bound": ["images", "labels", "condition"],
  "FlowPlusPlus.bits_per_dim": ["images"],
  "FlowPlusPlus.encode": ["images", "labels"],
}

"""All rows, by room, and those that are also called in graphs."""

import inspect

from support.public_callables import of_bijectors, of_bulk, of_data, of_evaluation, of_layers, of_models, of_training
from support.public_callables.kinds import annotations, argument, parameters
from support.public_callables.surface import FOREIGN_ARGUMENTS, WITHOUT_CASES, public_things
from support.wrong_values import Argument


def _completed(rows):
  """Rows with the kinds of arguments that their annotations say, and with the arguments that have a default."""
  covered = {}
  for name, row in rows.items():
    covered.setdefault(name.partition("/")[0], set()).update(row.arguments)
  return {name: _complete(name, row, covered[name.partition("/")[0]]) for name, row in rows.items()}


def _complete(name, row, covered):
  thing = public_things()[name.partition("/")[0]]
  hints, arguments = annotations(thing), {}
  for key, value in row.arguments.items():
    arguments[key] = value if isinstance(value, Argument) else argument(hints[key], value)
    assert arguments[key] is not None, f"{name}({key}): {hints[key]} does not say which values are wrong"
  if "/" not in name:
    exempt = {*FOREIGN_ARGUMENTS, *" ".join(WITHOUT_CASES.get(name, {}).values()).split()}
    for key, parameter in parameters(thing).items():
      if key not in covered | exempt and parameter.default is not inspect.Parameter.empty:
        if (found := argument(hints[key], parameter.default)) is not None:
          arguments[key] = found
  return row._replace(make=row.make or (lambda w: thing), arguments=arguments)


# Rows by "Class.method", "function" or "Class", for several rows of one callable with "/case" behind it.
ROOMS = {
  "bijectors": _completed(of_bijectors.ROWS),
  "layers": _completed(of_layers.ROWS),
  "models": _completed(of_models.ROWS),
  "evaluation": _completed(of_evaluation.ROWS),
  "data": _completed(of_data.ROWS),
  "training": _completed(of_training.ROWS),
  "bulk": _completed(of_bulk.ROWS),
}
# Rows whose first argument is a tensor that graphs take in.
GRAPHS = {
  **{name: row for name, row in ROOMS["bijectors"].items() if "_and_log_det/" in name},
  **{
    name: ROOMS["models"][name]
    for name in (
      "FlowDistribution.log_prob",
      "FlowDistribution.transform",
      "FlowDistribution.given",
      "FlowDistribution.given/log_prob",
      "FlowPlusPlus.decode",
      "FlowPlusPlus.log_prob_bound",
      "FlowPlusPlus.log_prob_bound/conditional",
      "FlowPlusPlus.bits_per_dim",
      "FlowPlusPlus.encode",
      "FlowPlusPlus.encode/conditional",
    )
  },
}

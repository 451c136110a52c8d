"""All rows, by room, and those that are also called in graphs."""

from support.public_callables import of_bijectors, of_bulk, of_data, of_evaluation, of_layers, of_models, of_training

# Rows by "Class.method", "function" or "Class", for several rows of one callable with "/case" behind it.
ROOMS = {
  "bijectors": of_bijectors.ROWS,
  "layers": of_layers.ROWS,
  "models": of_models.ROWS,
  "evaluation": of_evaluation.ROWS,
  "data": of_data.ROWS,
  "training": of_training.ROWS,
  "bulk": of_bulk.ROWS,
}
# Rows whose first argument is a tensor that graphs take in.
GRAPHS = {
  **{name: row for name, row in of_bijectors.ROWS.items() if "_and_log_det/" in name},
  **{
    name: of_models.ROWS[name]
    for name in (
      "FlowDistribution.log_prob",
      "FlowDistribution.log_prob_terms",
      "FlowDistribution.transform",
      "FlowDistribution.given",
      "FlowDistribution.given/log_prob",
      "FlowPlusPlus.decode",
    )
  },
}

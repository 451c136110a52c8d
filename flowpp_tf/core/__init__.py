"""What all other rooms stand on: the context of an evaluation, tracing, rematerialization, lanes, seeds, errors."""

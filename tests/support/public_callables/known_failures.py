"""Cases that fail and are known: "row(argument): wrong value". An entry that does not fail any more is an error."""

KNOWN_FAILURES: set[str] = set()

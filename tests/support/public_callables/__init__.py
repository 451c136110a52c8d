"""The table of public callables: how to call each, and what each of its arguments is."""

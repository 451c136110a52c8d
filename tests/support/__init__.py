"""What tests share: rows of tables, small models, calls of programs, plugins of pytest."""

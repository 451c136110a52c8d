"""The command-line programs: each reads its flags and calls the library."""

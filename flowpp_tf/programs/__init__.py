"""The command-line programs: flags, and a call into the library."""

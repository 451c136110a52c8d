"""Image files in an archive: what is read of each, where it is stored, and how it is written to a folder again."""

"""Stored models: the folders of the presets, the code that reads and writes them, model cards, published weights."""

"""Stored models: the folders of the presets with the code that reads and writes such, cards, published weights."""

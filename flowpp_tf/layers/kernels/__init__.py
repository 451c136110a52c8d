"""Functions of the layers with gradients written by hand, for speed and memory."""

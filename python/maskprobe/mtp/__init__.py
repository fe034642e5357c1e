"""Heads that a device trains for its own model: text that the model writes, training, the file of heads."""

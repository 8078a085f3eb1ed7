"""The frozen language model and all that runs it."""

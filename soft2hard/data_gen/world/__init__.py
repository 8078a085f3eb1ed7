"""The embedded world's language models: tokenizers, training data and training from scratch."""

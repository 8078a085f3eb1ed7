"""The training that tests/translator/test_deepspeed.py compares; apart from DeepSpeed, which not every machine has."""

PLAIN = {"epochs": 4, "batch_size": 3, "lr": 0.02, "noise": 0.0, "paraphrase_share": 0.0}
"""18 pairs, three pairs for each of two processes: three steps an epoch. Nothing is drawn, so curves can be equal."""

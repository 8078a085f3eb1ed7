"""Corpora: soft prompts beside the tasks they were tuned for, on disk, in shards."""

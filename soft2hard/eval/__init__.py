"""Evaluation of hard prompts against the soft prompts they come from."""

"""Tuning soft prompts; the settings stand in `data_gen.settings`, so that they can be read without PyTorch."""

from soft2hard.data_gen.settings import Tuning

__all__ = ["START_FILE", "Tuning"]

START_FILE = "initial_prompt.safetensors"
"""A subject's folder may hold under this name the common start of the prompts its translator was trained on."""

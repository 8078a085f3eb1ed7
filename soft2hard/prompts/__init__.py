"""Soft prompts: the record, file formats, PEFT adapters."""

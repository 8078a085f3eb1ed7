"""Asking models behind an OpenAI-compatible API, at known cost, without losing or paying twice for an answer."""

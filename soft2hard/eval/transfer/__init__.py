"""Prompts at work on models behind an API: what is asked, how answers are scored and judged, and tables of both."""

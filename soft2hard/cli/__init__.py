"""The command line. Commands parse, call the library and print; heavy imports stand inside them, so --help is quick."""

from soft2hard.cli.app import app

__all__ = ["app"]

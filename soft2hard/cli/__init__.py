"""The command line. Commands parse, call the library and print; heavy imports stand inside them, so --help is quick."""

import os

# Threads that wait by spinning burn whole cores when other programs want them: beside a busy process, a translation
# took twice the processor time. OpenMP reads this when it is loaded, so it comes before everything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from soft2hard.cli.app import app, main

__all__ = ["app", "main"]

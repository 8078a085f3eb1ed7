"""The checkpoints that come with the package: a small world in which everything runs offline."""

from soft2hard.storage.names import EMBEDDED, embedded_path

__all__ = ["EMBEDDED", "embedded_path"]

"""Where the repository lies, and the real data beside it, which a user may not have."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

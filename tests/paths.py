"""Where the repository lies, and the real data and the real model, which a user may not have."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
SMOLLM2 = Path(os.environ.get("SOFT2HARD_SMOLLM2") or CACHE / "soft2hard" / "smollm2-135m-instruct")
"""A pretrained model, where scripts/fetch_smollm2 puts it."""

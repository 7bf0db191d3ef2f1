"""`python -m finetune` is finetune-cli, for a Python whose scripts are not on the PATH."""

from __future__ import annotations

import os
import sys

# Python looks in the working folder first, where somebody's own evaluate.py or wandb/ may be. Only a checkout is needed, and comes last.
if sys.path[0] == os.getcwd():
    here = sys.path.pop(0)
    if here == os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        sys.path.append(here)
from finetune.cli import main

if __name__ == "__main__":
    sys.exit(main())

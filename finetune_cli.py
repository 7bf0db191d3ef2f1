"""The door: `python finetune_cli.py` asks, `python finetune_cli.py --yes` takes every default, `--help` lists the rest."""

from __future__ import annotations

import sys

from finetune.cli import main

if __name__ == "__main__":
    sys.exit(main())

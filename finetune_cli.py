"""The door: `python finetune_cli.py` asks, `python finetune_cli.py --yes` takes every default, `--help` lists the rest."""

from __future__ import annotations

import os
import sys

import finetune  # this one, whatever else is installed under the name

here = os.path.dirname(finetune.__path__[0])
if here in sys.path:  # at its end somebody's evaluate.py beside this file is not taken for the library
    sys.path.remove(here)
    sys.path.append(here)

from finetune.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

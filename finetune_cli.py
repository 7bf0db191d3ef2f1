"""The door: `python finetune_cli.py` asks, `python finetune_cli.py --yes` takes every default, `--help` lists the rest."""

from __future__ import annotations

import os
import sys

# Python looks in the folder of this file first, where somebody's own types.py or evaluate.py may be. It comes last, but for the package.
here = os.path.dirname(os.path.abspath(__file__))
others = [place for place in sys.path if os.path.abspath(place) != here]
sys.path[:] = others
import typing  # noqa: E402, F401  all that the package itself begins with

sys.path[:] = [here, *others]
import finetune  # noqa: E402, F401  this one, whatever else is installed under the name

sys.path[:] = [*others, here]
from finetune.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

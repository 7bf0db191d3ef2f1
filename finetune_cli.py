"""The door: `python finetune_cli.py` asks, `python finetune_cli.py --yes` takes every default, `--help` lists the rest."""

import os
import sys

OLDEST = (3, 11)  # as in pyproject.toml; any older Python, also the second version, can read this file and is told so

if sys.version_info < OLDEST:
    has, needs = (".".join(str(part) for part in version[:2]) for version in (sys.version_info, OLDEST))
    sys.stderr.write("This is Python " + has + ", and finetune-cli needs Python " + needs + " or newer.\n")
    sys.stderr.write("Make an environment with a newer one, such as: python" + needs + " -m venv .venv\n")
    sys.exit(2)

# Python looks in the folder of this file first, where somebody's own types.py or evaluate.py may be. It comes last, but for the package.
here = os.path.dirname(os.path.abspath(__file__))
others = [place for place in sys.path if os.path.abspath(place) != here]
sys.path[:] = others
import typing  # noqa: E402, F401  all that the package itself begins with

sys.path[:] = [here] + others  # noqa: RUF005  for the second version
import finetune  # noqa: E402, F401  this one, whatever else is installed under the name

sys.path[:] = others + [here]  # noqa: RUF005
from finetune.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

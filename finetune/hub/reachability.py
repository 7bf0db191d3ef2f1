"""Is the Hub reachable? Checked once, in at most two seconds; if not, the libraries stay in offline mode until the next run.

    if not hub_reachable():
        ...                       # huggingface_hub, transformers and datasets now use their caches without a single retry

huggingface_hub retries a failed look-up for half a minute per file; one early answer spares every later one. A notebook outlives a lost
connection: what begins a run asks again if the last "no" is some seconds old.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cache

PROBE_SECONDS = 2.0
ASKED_AGAIN = 10.0  # seconds after a "no"
# What a proxy answers that blocks the Hub.
NOT_THE_HUB = {403, 407, 502, 503, 504}
FLAGS = {  # the last is also the variable that a person sets
    "huggingface_hub.constants": ["HF_HUB_OFFLINE"],
    "datasets.config": ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"],
    "evaluate.config": ["HF_EVALUATE_OFFLINE"],
}
TRUE = ("1", "ON", "YES", "TRUE")
_LOCK = threading.Lock()
_before: dict[tuple[str, str], bool] = {}  # the flags that we set, as they were
_refused = 0.0  # when the Hub did not answer


def endpoint() -> str:
    """The Hub that huggingface_hub talks to: HF_ENDPOINT, or https://huggingface.co."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def shown_endpoint() -> str:
    """The endpoint without the user name, password or query that it may contain, so that it can be shown and stored."""
    scheme, _, rest = endpoint().rpartition("://")
    return f"{scheme or 'https'}://{rest.rpartition('@')[2].partition('?')[0]}"


def endpoint_host() -> str:
    """The endpoint's host, with its port if it names one, for messages."""
    return shown_endpoint().partition("://")[2].partition("/")[0]


def offline_reason() -> str:
    """Why the Hub is not used, as the beginning of a sentence."""
    ours = bool(_before) or _answers.cache_info().currsize > 0  # also when it may be asked again
    return f"{endpoint_host()} is not reachable" if ours else "The Hub is not used (HF_HUB_OFFLINE is set)"


def hub_reachable() -> bool:
    """Whether the Hub answers; False also under HF_HUB_OFFLINE. The first call decides until `ask_again`."""
    from huggingface_hub import constants

    with _LOCK:  # the wizard warms this up in a background thread
        if not constants.HF_HUB_OFFLINE and not _answers(endpoint()):
            go_offline()
        return not constants.HF_HUB_OFFLINE


def go_offline() -> None:
    """Offline mode for this process and its children, also in libraries that already read their environment."""
    global _refused
    _refused = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for module, names in FLAGS.items():
        for name in names:
            if module in sys.modules:
                _before.setdefault((module, name), getattr(sys.modules[module], name))
                setattr(sys.modules[module], name, True)


def ask_again() -> None:
    """Leave offline mode if it is ours and a while old, so that the next look asks the Hub; what a person asked for stays."""
    global _refused
    with _LOCK:
        if not _refused or time.monotonic() - _refused < ASKED_AGAIN:
            return
        _refused = 0.0
        _answers.cache_clear()
        os.environ.pop("HF_HUB_OFFLINE", None)
        for module, names in FLAGS.items():
            for name in names:
                if module in sys.modules:  # one that was imported meanwhile is as the person set its own variable
                    own = os.environ.get(names[-1], "").upper() in TRUE
                    setattr(sys.modules[module], name, _before.get((module, name), own))


@cache
def _answers(address: str) -> bool:
    """One request through huggingface_hub's own client, so that proxies and certificates are those of the real work.

    In a thread, because resolving a host name has no time limit of its own.
    """
    answers: list[bool] = []

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            answers.append(get_session().head(address, timeout=PROBE_SECONDS).status_code not in NOT_THE_HUB)
        except Exception:  # noqa: BLE001  httpx errors, a broken proxy setting, a bad URL: all mean "no"
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers) and answers[0]

"""A server on this machine that speaks as much of OpenAI's protocol as a teacher needs, and fails as real ones do.

with CompletionsServer() as server:
    server.address          # "http://127.0.0.1:40001/v1"
    server.faults.append(503)
"""

from __future__ import annotations

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MODEL = "talker"


class CompletionsServer:
    """Answers are random words, the same for the same messages and seed. `faults` are statuses of the next answers, `headers` more
    of their headers.

    An answer with a `status` is a refusal.
    """

    def __init__(self, *, key: str | None = None, empty: bool = False) -> None:
        self.key, self.empty = key, empty
        self.faults: list[int] = []
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> CompletionsServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, given: dict[str, Any]) -> dict[str, Any]:
        draw = random.Random(json.dumps(given, sort_keys=True))
        words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 4))) for _ in range(draw.randint(4, 6))]
        message = {"role": "assistant", "content": None if self.empty else " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "length" if draw.random() < 0.1 else "stop"}
        return {"choices": [choice], "usage": {"total_tokens": 40}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply({"data": [{"id": MODEL}]})

            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.asked.append(given)
                self._reply(server.answer(given), 200 if given["model"] == MODEL else 404)

            def _reply(self, content: dict[str, Any], status: int = 200) -> None:
                with server._lock:
                    status = server.faults.pop(0) if server.faults else status
                if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                    status = 401
                status = content.get("status", status) if status == 200 else status
                body = json.dumps(content if status == 200 or "status" in content else {"error": {"message": "not now"}}).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **server.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        return Handler

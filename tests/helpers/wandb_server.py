"""A server that answers wandb's SDK as far as a run needs it, and refuses the runs that were deleted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Knows the runs that were started, by id, and those that were deleted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.started: list[str] = []
        self.deleted: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the answer to a GraphQL request."""
        project = {"id": "p", "name": "htc", "entity": {"id": "e", "name": "me"}}
        if "upsertBucket" in query:
            name = variables["name"]
            if name in self.deleted:
                message = f"run htc/{name} was previously created and deleted; try a new run name"
                return 409, {"errors": [{"message": message, "path": ["upsertBucket"]}], "data": {"upsertBucket": None}}
            self.started.append(name)
            bucket = {"id": "x", "name": name, "displayName": name, "config": "{}", "historyLineCount": 0}
            return 200, {"data": {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}}}
        if "model(" in query:
            return 200, {"data": {"model": {**project, "bucket": None}}}
        return 200, {"data": {}}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply(200, {})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            request = json.loads(content)
        except ValueError:
            request = {}
        self._reply(*self.server.answer(request.get("query") or "", request.get("variables") or {}))

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Run a server while the context is open."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

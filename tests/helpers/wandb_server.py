"""A server on this machine that answers wandb's SDK as far as a run, tables and dashboards need it.

It keeps what runs send, and returns it as wandb's server does; it keeps views, and refuses the runs that were deleted.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.command import clean_environment

KEY = "0123456789abcdef0123456789abcdef01234567"
"""A key that the server accepts, as it does any other."""
ENTITY = "me"


@dataclass
class StoredRun:
    """A run as it arrived at the server."""

    name: str
    project: str
    config: str = "{}"
    summary: str = "{}"
    display_name: str = ""
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    state: str = "running"

    def node(self) -> dict[str, Any]:
        """Return the run as the public API receives it."""
        return {
            "id": f"id-{self.name}", "name": self.name, "displayName": self.display_name, "state": self.state,
            "config": self.config, "summaryMetrics": self.summary, "group": self.group, "tags": self.tags,
            "projectId": "1", "sweepName": None, "jobType": None, "commit": None, "readOnly": False, "notes": "",
            "createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": "2026-01-01T00:00:00Z", "description": "",
            "systemMetrics": "{}", "historyLineCount": 0, "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": None,
        }  # fmt: skip


class WandbServer(ThreadingHTTPServer):
    """Knows the runs that were started, by id, those that were deleted, and the views of projects."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.started: list[str] = []
        self.deleted: set[str] = set()
        self.runs: dict[str, StoredRun] = {}
        self.projects: set[str] = set()
        """Projects that exist without a run."""
        self.views: dict[str, dict[str, Any]] = {}
        """Views (workspaces and reports) by id: the variables of the last request that saved them."""
        self.saved: list[dict[str, Any]] = []
        """Variables of all requests that saved a view."""
        self.status = 200
        """HTTP status of all answers, to refuse everything."""
        self.page = 50
        """Most runs of an answer."""
        self.knows_key = True
        """Whether the key is one of a user."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables with which wandb's SDK talks to this server."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY}

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process that talks to this server."""
        return clean_environment(**self.variables, **variables)

    def answer(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the answer to a GraphQL request."""
        if self.status != 200:
            return self.status, {"errors": [{"message": "refused"}], "data": None}
        name = re.match(r"\s*(?:#graphql)?\s*(?:query|mutation)\s+(\w+)", query)
        operation = name[1] if name else ""
        if operation == "UpsertBucket":
            return self._start_run(variables)
        return 200, {"data": self._data(operation, query, variables)}

    def _data(self, operation: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "htc", "entity": {"id": "e", "name": ENTITY}, "internalId": "1"}
        if "viewer" in query:
            viewer = {
                "id": "v",
                "entity": ENTITY,
                "username": ENTITY,
                "email": "",
                "flags": "{}",
                "teams": {"edges": []},
            }
            return {"viewer": viewer if self.knows_key else None}
        if operation == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.address}/upload/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if operation == "Runs":
            return {"project": self._page_of_runs(variables)}
        if operation == "View":
            return {"project": {"allViews": {"edges": self._views(variables)}} if self._knows(variables) else None}
        if operation == "ProjectInternalId":
            return {"project": project if self._knows(variables) else None}
        if "upsertView" in query:
            return {"upsertView": self._save_view(variables)}
        if "view(id" in query:
            return {"view": self.views.get(variables.get("reportId") or variables.get("id") or "")}
        if "models(" in query or "projects(" in query:
            shown = {
                "__typename": "Project", "id": "p", "internalId": "1", "entityName": ENTITY, "isBenchmark": False,
                "createdAt": "2026-01-01T00:00:00Z", "user": None,
            }  # fmt: skip
            edges = [{"node": {**shown, "name": each}, "cursor": each} for each in sorted(self._projects())]
            info = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"edges": edges, "pageInfo": info}}
        if "model(" in query:
            return {"model": {**project, "bucket": None}}
        return {}

    def _start_run(self, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = variables["name"]
        if name in self.deleted:
            message = f"run htc/{name} was previously created and deleted; try a new run name"
            return 409, {"errors": [{"message": message, "path": ["upsertBucket"]}], "data": {"upsertBucket": None}}
        self.started.append(name)
        run = self.runs.setdefault(name, StoredRun(name, variables.get("project") or "htc"))
        run.config = variables.get("config") or run.config
        run.summary = variables.get("summaryMetrics") or run.summary
        run.display_name = variables.get("displayName") or run.display_name
        run.group = variables.get("groupName") or run.group
        run.tags = variables.get("tags") or run.tags
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": "x", "name": name, "displayName": run.display_name, "config": run.config, "historyLineCount": 0,
            "project": project,
        }  # fmt: skip
        return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}

    def stream(self, path: str, content: dict[str, Any]) -> None:
        """Keep what a run sends while it runs."""
        found = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path)
        run = self.runs.get(found[1]) if found else None
        if run is None:
            return
        for line in content.get("files", {}).get("wandb-summary.json", {}).get("content", []):
            run.summary = line
        if content.get("complete"):
            run.state = "failed" if content.get("exitcode") else "finished"

    def _projects(self) -> set[str]:
        return {*self.projects, *(run.project for run in self.runs.values())}

    def _knows(self, variables: dict[str, Any]) -> bool:
        project = variables.get("project") or variables.get("projectName") or variables.get("name")
        entity = variables.get("entity") or variables.get("entityName") or ENTITY
        return project in self._projects() and entity == ENTITY

    def _page_of_runs(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        if not self._knows(variables):
            return None
        runs = [run for run in self.runs.values() if run.project == variables["project"]]
        if tags := json.loads(variables.get("filters") or "{}").get("tags"):
            runs = [run for run in runs if set(tags["$in"]) & set(run.tags)]
        start = int(variables.get("cursor") or 0)
        end = start + min(self.page, variables["perPage"])
        edges = [{"node": run.node(), "cursor": str(start + i + 1)} for i, run in enumerate(runs[start:end])]
        info = {"endCursor": str(end), "hasNextPage": end < len(runs)}
        return {
            "internalId": "1", "runCount": len(runs), "readOnly": False, "runs": {"edges": edges, "pageInfo": info},
        }  # fmt: skip

    def _views(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"node": view}
            for view in self.views.values()
            if view["type"] == variables["viewType"] and view["name"] == variables.get("viewName")
        ]

    def _save_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Change the view with the id of a request; without one, or with an unknown one, add a view."""
        self.saved.append(variables)
        known = variables.get("id") in self.views
        # wandb's addresses hold the id of a view in base64.
        new = base64.b64encode(f"View:v1:{len(self.saved)}".encode()).decode()
        view_id = variables["id"] if known else new
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {
            "id": view_id, "type": variables["type"], "name": variables["name"], "spec": variables["spec"],
            "displayName": variables["displayName"], "description": variables.get("description") or "",
            "project": project, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        self.views[view_id] = view
        return {"view": view, "inserted": not known}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply(200, {})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._reply(200, {})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            request = json.loads(content)
        except ValueError:
            request = {}
        if self.path.startswith("/files/"):
            self.server.stream(self.path, request)
            self._reply(200, {})
        else:
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

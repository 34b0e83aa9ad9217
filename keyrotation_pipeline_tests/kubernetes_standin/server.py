"""The stand-in over HTTP: one server a test session, on a port of its own."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from keyrotation_pipeline_tests.kubernetes_standin.admission import GROUP, Admission
from keyrotation_pipeline_tests.kubernetes_standin.certificate import write_certificate
from keyrotation_pipeline_tests.kubernetes_standin.controller import Controller
from keyrotation_pipeline_tests.kubernetes_standin.discovery import documents
from keyrotation_pipeline_tests.kubernetes_standin.objects import (
    KINDS,
    Json,
    Key,
    Objects,
    RefusedError,
    merged,
    without,
)
from keyrotation_pipeline_tests.kubernetes_standin.rights import Rights
from keyrotation_pipeline_tests.waiting import eventually

ADMIN_TOKEN = "admin"
SCHEMA = "1.32"
APPLY, JSON_PATCH = "application/apply-patch+yaml", "application/json-patch+json"
MERGES = {
    "application/merge-patch+json": False,
    "application/strategic-merge-patch+json": True,
    APPLY: True,
}


@dataclass
class Standin:
    """The objects, and who may do what."""

    objects: Objects = field(default_factory=Objects)
    port: int = 0

    def __post_init__(self) -> None:
        self.rights = Rights(self.objects)
        self.controller = Controller(self.objects)
        self.admission = Admission()
        self.discovery: dict[str, Json] = documents()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def app(self) -> Starlette:
        groups = sorted({("api" if "/" not in group else "apis", group) for group, _ in KINDS.values()})
        routes = [Route("/api/v1/namespaces", self.answer, methods=["POST"])]
        routes.append(Route("/api/v1/namespaces/{namespace}", self.answer, methods=["GET", "DELETE"]))
        routes.append(Route(f"/apis/{GROUP}/{{policies}}", self.answer, methods=["POST"]))
        routes.append(Route(f"/apis/{GROUP}/{{policies}}/{{policy}}", self.answer, methods=["GET", "PATCH", "DELETE"]))
        for root, group in groups:
            base = f"/{root}/{group}/namespaces/{{namespace}}/{{plural}}"
            routes.append(Route(base, self.answer, methods=["GET", "POST"]))
            routes.append(Route(f"{base}/{{name}}", self.answer, methods=["GET", "PUT", "PATCH", "DELETE"]))
            routes.append(Route(f"{base}/{{name}}/{{part}}", self.answer, methods=["GET", "POST", "PUT", "PATCH"]))
        routes += [Route(path, self.discover, methods=["GET"]) for path in self.discovery]
        return Starlette(routes=routes)

    async def discover(self, request: Request) -> Response:
        return JSONResponse(self.discovery[request.url.path])

    async def answer(self, request: Request) -> Response:
        if request.query_params.get("watch"):
            return StreamingResponse(self._watch(request), media_type="application/json")
        body = await request.body()
        return await run_in_threadpool(self._answer, request, body)

    def _answer(self, request: Request, body: bytes) -> Response:
        try:
            content = json.loads(body) if body else None
            self._require_allowed(request)
            return JSONResponse(self._act(request, content), 201 if request.method == "POST" else 200)
        except RefusedError as refused:
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            status |= {"message": str(refused), "reason": refused.reason, "code": str(refused.status)}
            return JSONResponse({**status, "code": refused.status}, refused.status)

    def _require_allowed(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        if token == ADMIN_TOKEN:
            return
        where = request.path_params
        verb = {"GET": "get" if "name" in where else "list", "POST": "create", "PUT": "update"}.get(
            request.method, request.method.lower()
        )
        self.rights.require(token, verb, where)

    def _admit(self, request: Request) -> Callable[[Json | None, Json | None], None]:
        """Refuses what a policy denies whoever asks."""
        where, token = request.path_params, request.headers["authorization"].partition(" ")[2]

        def admit(before: Json | None, after: Json | None) -> None:
            if token != ADMIN_TOKEN:
                user = "system:serviceaccount:{}:{}".format(*self.rights.accounts[token])
                self.admission.require(user, (where["plural"], where["namespace"]), after, before)

        return admit

    def _act(self, request: Request, content: Any) -> Json:  # noqa: ANN401 - JSON
        where = request.path_params
        if "policies" in where:
            return self.admission.act(request.method, where["policies"], where.get("policy"), content)
        if "plural" not in where:
            return self._namespace(request.method, where, content)
        plural, namespace, name = where["plural"], where["namespace"], where.get("name")
        if plural not in KINDS:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        if where.get("part") == "token":
            return {"kind": "TokenRequest", "status": {"token": self.rights.token(namespace, str(name))}}
        if name is not None:
            return self._one(request, (plural, namespace, name), content)
        if request.method == "POST":
            return self.objects.create(
                plural, namespace, _valid(plural, content), _manager(request), self._admit(request)
            )
        group, kind = KINDS[plural]
        version = {"resourceVersion": str(self.objects.version)}
        names, labels = _names_in(request), _labels_in(request)
        found = self.objects.every(plural, namespace)
        items = [
            each
            for each in found
            if (names is None or each["metadata"]["name"] in names)
            and labels.items() <= (each["metadata"].get("labels") or {}).items()
        ]
        return {"kind": f"{kind}List", "apiVersion": group, "metadata": version, "items": items}

    def _one(self, request: Request, which: Key, content: Any) -> Json:  # noqa: ANN401 - JSON
        part, admit = request.path_params.get("part", ""), self._admit(request)
        match request.method:
            case "GET":
                found = self.objects.get(*which)
                if "as=PartialObjectMetadata" in request.headers.get("accept", "").partition(",")[0]:
                    about = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
                    return {**about, "metadata": found["metadata"]}
                return {"log": "a line"} if part == "log" else found  # any bytes are a log
            case "DELETE":
                admit(self.objects.get(*which), None)
                return self.objects.delete(*which)
            case "PUT":
                wanted = _valid(which[0], content)
                return self.objects.patch(*which, lambda _before: wanted, part, _manager(request), admit)
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind not in {*MERGES, JSON_PATCH}:
            raise RefusedError(415, "UnsupportedMediaType", "the body of the request was in an unknown format")

        if kind == APPLY and not any(each["metadata"]["name"] == which[2] for each in self.objects.every(*which[:2])):
            return self.objects.create(*which[:2], _valid(which[0], content), _manager(request), admit)

        def change(before: Json) -> Json:
            if kind == JSON_PATCH:
                return _valid(which[0], without(before, content))
            return _valid(which[0], merged(before, content, by_name=MERGES[kind]))

        return self.objects.patch(*which, change, part, _manager(request), admit)

    async def _watch(self, request: Request) -> AsyncIterator[str]:
        """Each change after a resource version, until the client has enough."""
        where, seen = request.path_params, int(request.query_params.get("resourceVersion") or 0)
        names = _names_in(request)
        while not await request.is_disconnected():
            for version, kind, plural, content in list(self.objects.events):
                about = content["metadata"]
                if version > seen and (plural, about["namespace"]) == (where["plural"], where["namespace"]):
                    seen = version
                    if names is None or about["name"] in names:
                        yield json.dumps({"type": kind, "object": content}) + "\n"
            await asyncio.sleep(0.02)

    def _namespace(self, method: str, where: dict[str, Any], content: Any) -> Json:  # noqa: ANN401 - JSON
        name = where.get("namespace") or content["metadata"]["name"]
        with self.objects.lock:
            if method == "POST":
                self.objects.namespaces.add(name)
            elif name not in self.objects.namespaces:
                raise RefusedError(404, "NotFound", f'namespaces "{name}" not found')
            elif method == "DELETE":
                self.objects.namespaces.discard(name)
                for key in [each for each in self.objects.kept if each[1] == name]:
                    del self.objects.kept[key]
        return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}


def _valid(plural: str, content: Json) -> Json:
    """Refuse what the API's own schema does not know. Secrets are many, and `objects` looks at them itself."""
    if plural in {"secrets", "pods"}:
        return content
    group, kind = KINDS[plural]
    wanted = {part: value for part, value in content.items() if part != "status"}
    try:
        kubernetes_validate.validate({**wanted, "apiVersion": group, "kind": kind}, SCHEMA, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise RefusedError(400, "BadRequest", f"strict decoding error: {error.message}") from None
    return content


def _manager(request: Request) -> str:
    """The field manager that a request names, else the beginning of its user agent."""
    named = request.query_params.get("fieldManager") or request.headers.get("user-agent", "").partition("/")[0]
    return named or "unknown"


def _names_in(request: Request) -> set[str] | None:
    selector = request.query_params.get("fieldSelector", "")
    name = selector.removeprefix("metadata.name=")
    return None if name == selector else {name}


def _labels_in(request: Request) -> dict[str, str]:
    selector = request.query_params.get("labelSelector", "")
    return dict(each.split("=", 1) for each in selector.split(",") if each)


def serve(standin: Standin, certificate: Path) -> None:
    """Let the stand-in answer over TLS, without which kubectl sends no token, until this process ends.

    Args:
        certificate: where its certificate is put, with its key.
    """
    write_certificate(certificate)
    config = uvicorn.Config(
        standin.app(), host="127.0.0.1", port=0, log_level="critical", lifespan="off", ssl_certfile=certificate
    )
    server = uvicorn.Server(config)
    # Not stopped: a server waits for each of its clients to end its TLS, and those of a test do not.
    threading.Thread(target=server.run, daemon=True).start()
    assert eventually(lambda: server.started)
    standin.port = server.servers[0].sockets[0].getsockname()[1]

"""What happens to answers of servers that are well, or well again soon: no reason for a deploy to fail."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

from tests.support.servers.hostile_messages import Answer
from tests.support.servers.twisted_content import OBJECTS
from tests.support.servers.twists import ANY, Play, Scene, sent, twist

MILD: dict[str, Play] = {}
"""Of any answer, as often as you like."""
MILD_JSON: dict[str, Play] = {}
SOON: dict[str, Play] = {name: ANY[name] for name in ("reset", "hang up")}
"""Of any GET, for the first time or two."""
MILD_OBJECTS: dict[str, Play] = {
    name: OBJECTS[name] for name in ("a quarter at a time", "nothing to tell versions by")
}
SOON_OBJECTS: dict[str, Play] = {name: OBJECTS[name] for name in ("too many requests",)}


@twist("a little late", MILD)
def _a_little_late(scene: Scene) -> None:
    scene.wire.wait(scene.random.uniform(0.0, 0.15))
    sent(scene, scene.answer)


@twist("in some pieces", MILD)
def _in_pieces(scene: Scene) -> None:
    body = scene.answer.body
    scene.wire.head(scene.answer.status, {**scene.answer.headers, "Content-Length": str(len(body))})
    scene.wire.drip(body, 0.01, max(1, len(body) // 8))


@twist("in chunks", MILD)
def _in_chunks(scene: Scene) -> None:
    body = scene.answer.body
    scene.wire.head(scene.answer.status, {**scene.answer.headers, "Transfer-Encoding": "chunked"})
    count = max(1, len(body) // 4)
    for start in range(0, len(body), count):
        part = body[start : start + count]
        scene.wire.send(b"%x\r\n%s\r\n" % (len(part), part))
    scene.wire.send(b"0\r\n\r\n")


@twist("connection closed after it", MILD)
def _closed(scene: Scene) -> None:
    sent(scene, scene.answer.changed(Connection="close"))
    scene.wire.close()


@twist("further headers", MILD)
def _further_headers(scene: Scene) -> None:
    sent(scene, scene.answer.changed(Via="1.1 proxy", Set_Cookie="a=b", X_Request_Id="7", Server="nginx"))


@twist("packed", MILD_JSON)
def _packed(scene: Scene) -> None:
    body = gzip.compress(scene.answer.body)
    sent(scene, replace(scene.answer, body=body).changed(Content_Encoding="gzip"))


@twist("further members", MILD_JSON)
def _further_members(scene: Scene) -> None:
    tree = json.loads(scene.answer.body)
    sent(scene, replace(scene.answer, body=json.dumps({"new": [1, {"x": None}], **tree}).encode()))


@twist("moved on the same host", MILD_JSON)
def _moved_here(scene: Scene) -> None:
    mark = "&" if "?" in scene.asked.target else "?"
    if "moved=1" in scene.asked.target:
        sent(scene, scene.answer)
    else:
        sent(scene, Answer(307, {"Location": f"{scene.asked.target}{mark}moved=1"}, b""))


@twist("moved elsewhere", MILD_OBJECTS)
def _moved_elsewhere(scene: Scene) -> None:
    sent(scene, Answer(307, {"Location": scene.site.url("elsewhere") + scene.asked.target}, b""))


@twist("busy for a moment", SOON)
def _busy_for_a_moment(scene: Scene) -> None:
    answer = Answer.json(
        {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "busy"},
        scene.random.choice((429, 502, 503, 504)),
    )
    sent(scene, answer if scene.random.random() < 0.5 else answer.changed(Retry_After="0"))


@twist("expired once", SOON_OBJECTS)
def _expired_once(scene: Scene) -> None:
    sent(scene, Answer.failure("AccessDenied", "Request has expired", 403))

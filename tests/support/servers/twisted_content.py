"""Twists of an answer's content: of JSON, of listings, of objects and presigned URLs."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

from tests.support.servers.hostile_messages import Answer, etag_of, ranged
from tests.support.servers.hostile_site import BUCKET, ROOT
from tests.support.servers.twists import MIB, Play, Scene, sent, twist

MEMBERS: dict[str, Play] = {}
"""Twists of an answer in JSON or XML."""
FOLDERS: dict[str, Play] = {}
"""Twists of a listing by MLflow."""
PAGES: dict[str, Play] = {}
"""Twists of a listing by S3."""
OBJECTS: dict[str, Play] = {}
"""Twists of an object, or a range of it."""
SIGNED: dict[str, Play] = {}
"""Twists of what says where a presigned URL leads."""
TOKENS: dict[str, Play] = {}
"""Twists of MLflow's lists, which come in pages."""

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1e300,
    2**63,
    "@huge@",
    "@infinite@",
    "",
    " ",
    "-1",
    "1e3",
    "NaN",
    "²",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/../../b",
    "%2e%2e%2fb",
    "a\x00b",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "\u202etxt.exe",
    "\ud800",
    "x" * 100_000,
    "file:///etc/passwd",
    "http://127.0.0.1:1/latest/meta-data",
    "s3://other-bucket/else",
    "models:/best_model@A",
    "models:/best_model/2",
    "runs:/../x",
    "<script>alert(1)</script>",
    [],
    {},
    [[]],
    [None],
    {"a": None},
    ["x"] * 1000,
)


READ = frozenset(
    (
        *("model_version", "model_versions", "version", "status", "source", "run_id", "tags", "key", "value"),
        *("run", "info", "artifact_uri", "files", "path", "is_dir", "file_size", "url"),
    )
)
"""Members that a deploy reads; the others may be odd."""


def odd(chance: random.Random) -> Any:
    return chance.choice(ODD)


@twist("odd member", MEMBERS)
def _odd_member(scene: Scene) -> None:
    """Something in it is of another type, is missing, or is called otherwise."""
    body = scene.answer.body
    changed = _odd_xml if body.startswith(b"<?xml") else _odd_json
    for _ in range(scene.random.choice((1, 1, 2))):
        body = changed(body, scene.random)
    sent(scene, replace(scene.answer, body=body))


def _odd_json(body: bytes, chance: random.Random) -> bytes:
    try:
        tree = json.loads(body)
    except ValueError:
        return body[:-1]
    places = list(_places(tree))
    read = [(holder, key) for holder, key in places if key in READ]
    if places:
        holder, key = chance.choice(read if read and chance.random() < 0.85 else places)
        match chance.choice(("replace", "replace", "replace", "drop", "rename", "wrap")):
            case "replace":
                holder[key] = odd(chance)
            case "drop":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[f"{key}_"] = holder.pop(key)
            case _:
                holder[key] = [holder[key]]
    text = json.dumps(tree).replace('"@huge@"', "9" * 4400).replace('"@infinite@"', "1e999")
    return text.encode()


def _places(tree: Any) -> Any:
    """Yield whatever is in a tree, as what holds it and under which key."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _odd_xml(body: bytes, chance: random.Random) -> bytes:
    tags = list(re.finditer(rb"<(\w+)>([^<]*)</\1>", body))
    if not tags:
        return body[:-1]
    found = chance.choice(tags)
    text = str(odd(chance)).encode(errors="replace").replace(b"<", b"&lt;").replace(b"\x00", b"&#0;")
    name = found[1]
    new = chance.choice(
        (b"<%s>%s</%s>" % (name, text, name), b"", b"<%s_>x</%s_>" % (name, name), b"<%s>" % name)
    )
    return body[: found.start()] + new + body[found.end() :]


# Listings by MLflow


def _listed(scene: Scene, files: list[dict[str, Any]]) -> None:
    sent(scene, replace(Answer.json({"files": files}), status=200))


@twist("a folder in each folder", FOLDERS)
def _deep(scene: Scene) -> None:
    _listed(scene, [{"path": "d", "is_dir": True}])


@twist("ten folders in each folder", FOLDERS)
def _deep_and_wide(scene: Scene) -> None:
    _listed(scene, [{"path": f"d{number}", "is_dir": True} for number in range(10)])


@twist("folder of itself", FOLDERS)
def _folder_of_itself(scene: Scene) -> None:
    _listed(scene, [{"path": scene.random.choice((".", "", "..", "./.")), "is_dir": True}])


@twist("very many files", FOLDERS)
def _very_many(scene: Scene) -> None:
    count = scene.random.choice((5_000, 120_000))
    _listed(scene, [{"path": f"f{number}", "is_dir": False, "file_size": 1} for number in range(count)])


@twist("odd entries", FOLDERS)
def _odd_entries(scene: Scene) -> None:
    files: list[Any] = json.loads(scene.answer.body).get("files", []) if scene.answer.status == 200 else []
    entry: dict[str, Any] = {"path": "model.onnx", "is_dir": False, "file_size": 100}
    entry[scene.random.choice(tuple(entry))] = odd(scene.random)
    _listed(
        scene,
        scene.random.choice(([*files, entry], [entry, *files], [entry], [*files, *files], [None, *files])),
    )


# Listings by S3


def _page(scene: Scene, entries: str, token: str = "") -> None:
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    sent(
        scene,
        Answer.xml(
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><IsTruncated>{str(bool(token)).lower()}</IsTruncated>{entries}{more}</ListBucketResult>"
        ),
    )


def _key(scene: Scene, name: str, size: object = 1) -> str:
    prefix = scene.asked.query.get("prefix", "")
    return f"<Contents><Key>{prefix}{name}</Key><Size>{size}</Size></Contents>"


@twist("endless pages", PAGES)
def _endless_pages(scene: Scene) -> None:
    count = scene.random.choice((0, 1, 1000))
    entries = "".join(_key(scene, f"{scene.asked.number}-{number}") for number in range(count))
    _page(scene, entries, token=f"t{scene.asked.number}")


@twist("same page for ever", PAGES)
def _same_page(scene: Scene) -> None:
    _page(scene, _key(scene, "model.onnx"), token="t")


@twist("odd keys", PAGES)
def _odd_keys(scene: Scene) -> None:
    name = str(odd(scene.random)).replace("<", "").replace("\x00", "").encode(errors="replace").decode()
    size = scene.random.choice((1, -1, "many", "", 10**30, "1.5"))
    _page(
        scene,
        scene.random.choice(
            (_key(scene, name), _key(scene, "model.onnx", size), f"<Contents><Key>{name}</Key></Contents>")
        ),
    )


@twist("entities", PAGES)
def _entities(scene: Scene) -> None:
    """A document whose entities grow to gigabytes, or that asks for a file."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><ListBucketResult><Name>&l9;</Name></ListBucketResult>'
    file = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><ListBucketResult><Name>&f;</Name></ListBucketResult>'
    deep = "<a>" * 100_000
    sent(scene, Answer.xml(scene.random.choice((bomb, file, deep))))


@twist("other region", PAGES)
def _other_region(scene: Scene) -> None:
    moved = Answer.failure("PermanentRedirect", "The bucket is in this region: eu-north-1.", 301)
    wrong = Answer.xml(
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting 'eu-north-1'</Message>"
        "<Region>eu-north-1</Region></Error>",
        400,
    )
    sent(scene, scene.random.choice((moved, wrong)).changed(x_amz_bucket_region="eu-north-1"))


# Objects


FILLER, OTHER_FILLER = b"a" * 64, b"b" * 64


def other_object(data: bytes) -> bytes:
    """Return a replacement of the same size, as by another upload: one that differs in its filler alone, so that a mixture of both is as good a model."""
    changed = data.replace(FILLER, OTHER_FILLER)
    return (
        changed
        if changed != data
        else (b"somebody uploaded something else" * (len(data) // 32 + 1))[: len(data)]
    )


def _whole(scene: Scene) -> bytes:
    """Return the object that is asked for, or nothing when there is none."""
    path = scene.asked.path
    key = (
        path.removeprefix(f"/{BUCKET}/")
        if scene.asked.server == "s3"
        else f"{ROOT}/{path.partition('/artifacts/')[2]}"
    )
    return scene.site.contents.objects.get(key, b"")


@twist("replaced", OBJECTS)
def _replaced(scene: Scene) -> None:
    """From now on it is another one, of the same size and with an ETag of its own."""
    data = other_object(_whole(scene))
    headers = {} if scene.asked.server == "mlflow" else scene.asked.headers
    ignores = scene.random.random() < 0.5
    # Some servers know no conditions.
    kept = {name: value for name, value in headers.items() if not (ignores and name.startswith("if-"))}
    sent(scene, ranged(data, kept))


@twist("nothing to tell versions by", OBJECTS)
def _no_validators(scene: Scene) -> None:
    kept = {k: v for k, v in scene.answer.headers.items() if k not in ("ETag", "Last-Modified")}
    weak = scene.random.random() < 0.5
    sent(scene, replace(scene.answer, headers={**kept, **({"ETag": 'W/"weak"'} if weak else {})}))


@twist("ignores ranges", OBJECTS)
def _ignores_ranges(scene: Scene) -> None:
    data = _whole(scene)
    sent(scene, Answer(scene.random.choice((200, 206)), {"ETag": f'"{etag_of(data)}"'}, data))


@twist("odd range", OBJECTS)
def _odd_range(scene: Scene) -> None:
    size = len(_whole(scene))
    texts = (
        f"bytes 0-0/{size}",
        f"bytes 5-9/{size}",
        "bytes */*",
        f"bytes 0-{size - 1}/*",
        "bytes 0-1/2",
        "items 1-2/3",
        "",
        "bytes 9-1/5",
    )
    sent(scene, scene.answer.changed(Content_Range=scene.random.choice(texts)))


@twist("other size", OBJECTS)
def _other_size(scene: Scene) -> None:
    data = _whole(scene)
    changed = scene.random.choice((data[: len(data) // 2], data + b"more", b"", data[:-1], data * 3))
    sent(scene, ranged(changed, {} if scene.random.random() < 0.3 else scene.asked.headers))


@twist("several parts", OBJECTS)
def _several_parts(scene: Scene) -> None:
    sent(scene, replace(scene.answer, status=206).changed(Content_Type="multipart/byteranges; boundary=b"))


@twist("packed object", OBJECTS)
def _packed(scene: Scene) -> None:
    sent(scene, scene.answer.changed(Content_Encoding=scene.random.choice(("gzip", "deflate", "br"))))


@twist("expired", OBJECTS)
def _expired(scene: Scene) -> None:
    code, message = scene.random.choice(
        (("AccessDenied", "Request has expired"), ("ExpiredToken", "The provided token has expired."))
    )
    sent(scene, Answer.failure(code, message, 403))


@twist("too many requests", OBJECTS)
def _slow_down(scene: Scene) -> None:
    sent(scene, Answer.failure("SlowDown", "Please reduce your request rate.", 503))


@twist("a quarter at a time", OBJECTS)
def _a_quarter(scene: Scene) -> None:
    """Each connection breaks after it has brought something."""
    body = scene.answer.body
    count = min(len(body), MIB // 4)
    scene.wire.head(scene.answer.status, {**scene.answer.headers, "Content-Length": str(len(body))})
    scene.wire.send(body[:count])
    if count < len(body):
        # With a reset the system throws away what the client has not read yet.
        scene.wire.wait(0.05)
        scene.wire.reset()


# Presigned URLs


@twist("odd place", SIGNED)
def _odd_place(scene: Scene) -> None:
    places: tuple[Any, ...] = (
        *ODD,
        "ftp://127.0.0.1/x",
        "http://127.0.0.1:1/closed",
        "http://127.0.0.1:99999/",
        "http://[::1",
        "https://127.0.0.1:1/",
        scene.site.url("elsewhere"),
        f"{scene.site.url('mlflow')}/api/2.0/mlflow/runs/get",
        "http://user:password@127.0.0.1:1/",
        "http://" + "a" * 300 + ".invalid/",
    )
    sent(
        scene,
        Answer.json(
            {
                "url": scene.random.choice(places),
                "headers": scene.random.choice(({}, None, {"Host": "x"}, {"A\n": "b"})),
            }
        ),
    )


@twist("endless tokens", TOKENS)
def _endless_tokens(scene: Scene) -> None:
    tree = json.loads(scene.answer.body)
    token = scene.random.choice((f"t{scene.asked.number}", "t", 7, ["t"]))
    sent(scene, Answer.json({**tree, "next_page_token": token}))

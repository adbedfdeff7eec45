"""Seeded damages of a model repository by people, other programs, disks and newer releases of this package.

A damage is a value: where, which kind, how. The same one can be done again to another copy of the
repository, alone or with others.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.models import times
from tests.support.world import MODEL

ELSEWHERE = "elsewhere"
"""Name of a folder with foreign files beside the repository."""
DEADLY = "100000000000000000000"
"""A folder name of 21 digits, which ends every Triton that loads the model above it."""

CLASSES: tuple[tuple[str, str], ...] = (
    (r"M", "the model's folder"),
    (r"M/releases", "releases/"),
    (r"M/releases/000003\.json", "the live release"),
    (r"M/releases/.*", "an earlier release"),
    (r"M/current\.json", "current.json"),
    (r"M/config\.pbtxt", "the switch's configuration"),
    (r"M/deployments", "deployments/"),
    (r"M/deployments/begun", "the journal of what is under way"),
    (r"M/deployments/begun/.*", "a record of what is under way"),
    (r"M/deployments/[^/]*", "a journal"),
    (r"M/deployments/.*", "a journal's record"),
    (r"M/leases", "leases/"),
    (r"M/leases/.*", "a lease"),
    (r"M/bakes", "bakes/"),
    (r"M/bakes/.*", "a bake"),
    (r"M/reconcile\.json", "reconcile.json"),
    (r"M/3", "the live version's folder"),
    (r"M/3/manifest\.json", "the live version's manifest"),
    (r"M/3/smoke\.json", "the live version's smoke test"),
    (r"M/3/model\.onnx", "the live version's weights"),
    (r"M/3/.*", "the live version's other files"),
    (r"M/[12]", "an earlier version's folder"),
    (r"M/[12]/manifest\.json", "an earlier version's manifest"),
    (r"M/[12]/smoke\.json", "an earlier version's smoke test"),
    (r"M/[12]/model\.onnx", "an earlier version's weights"),
    (r"M/[12]/.*", "an earlier version's other files"),
    (r"M/6", "a candidate's folder"),
    (r"M/6/.*", "a candidate's file"),
    (r"M\.v6", "a candidate's engine"),
    (r"M\.v6/.*", "a link of a candidate's engine"),
    (r"M/engines/6", "a candidate's configurations"),
    (r"M/engines/6/.*", "a candidate's configuration"),
    (r"M/5\.failed_[^/]*", "a quarantined folder"),
    (r"M/5\.failed_[^/]*/.*", "a quarantined file"),
    (r"M/engines", "engines/"),
    (r"M/engines/[^/]*", "an engine's configurations"),
    (r"M/engines/.*", "an engine's configuration"),
    (r"M\.v3", "the live engine"),
    (r"M\.v3/.*", "a link of the live engine"),
    (r"M\.v2", "the warm engine"),
    (r"M\.v2/.*", "a link of the warm engine"),
)
"""Classes of paths below the repository; the first pattern that fits."""
DERIVED = frozenset(
    {
        "current.json",
        "the switch's configuration",
        "engines/",
        "an engine's configurations",
        "an engine's configuration",
        "the live engine",
        "a link of the live engine",
        "the warm engine",
        "a link of the warm engine",
    }
)
"""Classes of derived files: they are rewritten from the release in any case."""
KEPT = frozenset(
    {"the live release", "an earlier release", "a journal's record", "a bake", "a quarantined file"}
)
"""Classes of files that are written once."""
MAPPINGS = frozenset(
    {"times_utc", "given", "away", "unanswered", "ended", "notices", "stuck", "figures", "options"}
)
"""Fields whose keys are names, not fields of ours: a newer release adds none to them."""

NOTES = b"Ask Maria before you remove this.\n"


def class_of(path: str) -> str:
    """Return what ``path``, below the repository, is."""
    for pattern, name in CLASSES:
        if re.fullmatch(pattern.replace("M", MODEL, 1), path):
            return name
    return "somebody else's"


@dataclass(frozen=True)
class Damage:
    """A damage to a path of the repository.

    Attributes:
        kind: one of ``KINDS``.
        path: below the repository, with ``/``.
        how: which of the kind's ways.
        other: the second path of a swap, or where a link leads to, below the repository.
        seed: decides the open choices of the way, such as where a file is cut.
    """

    kind: str
    path: str
    how: str
    other: str = ""
    seed: int = field(default=0, compare=False)

    def __str__(self) -> str:
        other = f" with {self.other}" if self.kind == "swap" else f" to {self.other}" if self.other else ""
        return f"{self.kind} ({self.how}) {self.path}{other}"

    @property
    def group(self) -> tuple[str, str, str]:
        """The kind, the way, and what the path is: damages of one group are mended at one place."""
        return self.kind, self.how, class_of(self.path)

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that are other than before."""
        return (self.path, self.other) if self.kind == "swap" else (self.path,)

    @property
    def foreign(self) -> bool:
        """Whether the file is foreign, and has to stay."""
        return self.kind == "foreign"

    @property
    def deadly(self) -> bool:
        """Whether Triton can't bear it, at whatever load of what it lies in: status and reconcile have to say so."""
        leads_nowhere = self.kind == "link" and self.how in ("dangling", "to itself")
        in_the_models_folder = self.path.count("/") == 1 and self.path.startswith(f"{MODEL}/")
        return (self.foreign and self.how == "deadly") or (
            leads_nowhere and in_the_models_folder and class_of(self.path) not in (*DERIVED, "reconcile.json")
        )

    @property
    def harmless(self) -> bool:
        """Whether everything has to go on as if nothing had happened."""
        return self.kind == "newer" or (self.foreign and self.how not in ("deadly", "in the way"))

    @property
    def derived(self) -> bool:
        """Whether all of it can be made anew from the release; what lies in the place of a file or a folder is another thing, which may stay."""
        return (
            self.kind in ("delete", "truncate", "junk", "swap")
            and "in the place" not in self.how
            and all(class_of(path) in DERIVED for path in self.paths)
        )

    @property
    def loads(self) -> str:
        """Name of a model that somebody has loaded by hand into every Triton, or empty."""
        return self.path if self.foreign and self.how == "a served model" else ""

    def apply(self, root: Path) -> None:
        """Do it to the repository ``root``."""
        rng = random.Random(f"{self.seed} {self}")
        KINDS[self.kind](self, root, rng)


# Kinds


def _delete(damage: Damage, root: Path, rng: random.Random) -> None:
    remove(root / damage.path)


def _truncate(damage: Damage, root: Path, rng: random.Random) -> None:
    path = root / damage.path
    data = path.read_bytes()
    path.write_bytes(data[: 0 if damage.how == "to nothing" else rng.randrange(len(data))])


def _junk(damage: Damage, root: Path, rng: random.Random) -> None:
    path = root / damage.path
    if damage.how == "a file in the place of a folder":
        remove(path)
        path.write_bytes(NOTES)
    elif damage.how == "a folder in the place of a file":
        remove(path)
        path.mkdir()
    else:
        path.write_bytes(JUNK[damage.how](path.read_bytes(), rng))


def _swap(damage: Damage, root: Path, rng: random.Random) -> None:
    one, two = root / damage.path, root / damage.other
    aside = root / ".swapping"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def _link(damage: Damage, root: Path, rng: random.Random) -> None:
    path = root / damage.path
    folder = path.is_dir()
    target = {
        "dangling": path.with_name("gone"),
        "to itself": path,
        "to somebody else's": root.parent / ELSEWHERE / ("folder" if folder else "notes.txt"),
        "to another": root / damage.other,
    }[damage.how]
    remove(path)
    path.symlink_to(target)


def _newer(damage: Damage, root: Path, rng: random.Random) -> None:
    path = root / damage.path
    before = path.read_bytes()
    content = json.loads(before)
    objects = list(_objects(content))
    for place in rng.sample(objects, min(len(objects), rng.randint(1, 3))):
        place["added_later"] = rng.choice([{"of": ["any", {"depth": 1}]}, [1, 2], "text", None, 7])
    after = (json.dumps(content, indent=2) + "\n").encode()
    path.write_bytes(after)
    _reissue(root / MODEL, hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest())


def _foreign(damage: Damage, root: Path, rng: random.Random) -> None:
    path = root / damage.path
    if damage.how in ("a served model", "a model", "in the way") and "/" not in damage.path:
        _hand_made(path)
    elif damage.how == "a link":
        path.symlink_to(root.parent / ELSEWHERE / "folder")
    elif damage.how == "a file":
        path.write_bytes(b"{}" if path.suffix == ".json" else NOTES)
    else:
        path.mkdir()
        (path / "model.onnx").write_bytes(times(9.0).SerializeToString())
        (path / "notes.txt").write_bytes(NOTES)


KINDS: dict[str, Callable[[Damage, Path, random.Random], None]] = {
    "delete": _delete,
    "truncate": _truncate,
    "junk": _junk,
    "swap": _swap,
    "link": _link,
    "newer": _newer,
    "foreign": _foreign,
}


def _objects(content: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """Yield every JSON object at any depth that has fields."""
    if isinstance(content, dict) and name not in MAPPINGS:
        yield content
    parts = content.items() if isinstance(content, dict) else ((name, part) for part in content)
    for key, part in list(parts):
        if isinstance(part, dict | list):
            yield from _objects(part, key)


def _reissue(model: Path, before: str, after: str) -> None:
    """Write a file's new digest wherever its old one was recorded, as the writer of the new file would."""
    for path in sorted(model.rglob("*.json")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        if before.encode() in data:
            new = data.replace(before.encode(), after.encode())
            path.write_bytes(new)
            _reissue(model, hashlib.sha256(data).hexdigest(), hashlib.sha256(new).hexdigest())


def _wrong_value(data: bytes, rng: random.Random) -> bytes:
    """Put a value of another type in the place of one field."""
    content = json.loads(data)
    place = rng.choice([found for found in _objects(content) if found] or [{"": None}])
    key = rng.choice(sorted(place))
    values: list[Any] = [{"a": {}}, [[]], "text", None, -1, 10**30, 1e300, True]
    place[key] = rng.choice([value for value in values if type(value) is not type(place[key])])
    return json.dumps(content).encode()


JUNK: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": lambda data, rng: rng.randbytes(len(data) or 1),
    "not UTF-8": lambda data, rng: b"\xff\xfe" + data[2:],
    "another shape": lambda data, rng: rng.choice(
        [b"[1, 2]", b"null", b'"text"', b'{"a": {"b": []}}', b"{}"]
    ),
    "a huge number": lambda data, rng: rng.choice(
        [b"1" * 5000, b"1e999", b'{"generation": ' + b"9" * 400 + b"}"]
    ),
    "nested": lambda data, rng: b"[" * 100_000,
    "a value of another type": _wrong_value,
}


def _hand_made(path: Path) -> None:
    """Make a model as people do: its files in a folder of its own, and a configuration."""
    (path / "1").mkdir(parents=True)
    (path / "1/model.onnx").write_bytes(times(9.0).SerializeToString())
    tensor = "data_type: TYPE_FP32 dims: [ -1, 2 ]"
    (path / "config.pbtxt").write_text(
        f'name: "{path.name}"\nbackend: "onnxruntime"\nversion_policy {{ specific {{ versions: 1 }} }}\n'
        f'input [ {{ name: "x" {tensor} }} ]\noutput [ {{ name: "y" {tensor} }} ]\n',
        encoding="utf-8",
    )


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# The generator


@dataclass(frozen=True)
class Original:
    """The repository before any damage: the parts that can be damaged.

    Attributes:
        files: paths of files, by class.
        folders: paths of folders, by class.
        links: paths of links, by class.
    """

    files: Mapping[str, Sequence[str]]
    folders: Mapping[str, Sequence[str]]
    links: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, root: Path) -> Original:
        """Look at a repository."""
        found: tuple[dict[str, list[str]], ...] = ({}, {}, {})
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if class_of(name) != "somebody else's":
                group = found[2] if path.is_symlink() else found[1] if path.is_dir() else found[0]
                group.setdefault(class_of(name), []).append(name)
        return cls(*found)

    def of_kind(self, kind: str) -> list[tuple[str, list[str]]]:
        """Return what a kind of damage can happen to: each class of files, of folders and of links, with its paths."""
        groups = [self.files] if kind in ("truncate", "newer") else [self.files, self.folders, self.links]
        found = [
            (name, [path for path in paths if kind != "newer" or _has_fields(path)])
            for group in groups
            for name, paths in group.items()
        ]
        return [(name, paths) for name, paths in found if len(paths) > (kind == "swap")]


def _has_fields(path: str) -> bool:
    """Whether it is a record of this package; what lies in ``triton/`` came with the model, and a smoke test is what it was made of."""
    return path.endswith(".json") and "/triton/" not in path and _name(path) != "smoke.json"


def choose(original: Original, rng: random.Random) -> list[Damage]:
    """Return one to three damages of paths none of which lies in another."""
    wanted, chosen = rng.randint(1, 3), list[Damage]()
    while len(chosen) < wanted:
        damage = _one(original, rng)
        taken = [path for known in chosen for path in _touched(known)]
        if not any(_within(path, other) for path in _touched(damage) for other in taken):
            chosen.append(damage)
    # What changes the digests of files comes first: later it would meet files that can't be read.
    return sorted(chosen, key=lambda damage: damage.kind != "newer")


def _touched(damage: Damage) -> tuple[str, ...]:
    return tuple(filter(None, (damage.path, damage.other)))


def _within(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def each(original: Original, kind: str) -> Iterator[Damage]:
    """Yield every way of a kind once for every class of paths, at the last of them: the newest lease or record decides."""
    if kind == "foreign":
        yield from (Damage(kind, path, how) for some in FOREIGN.values() for path, how in some)
        return
    for name, paths in original.of_kind(kind):
        siblings = _siblings(paths, paths[-1])
        for how in _ways(kind, paths[-1], siblings, is_file=paths[-1] in original.files.get(name, ())):
            yield Damage(kind, paths[-1], how, siblings[0] if how in _WITH_ANOTHER else "")


def _one(original: Original, rng: random.Random) -> Damage:
    kind, seed = rng.choice(list(KINDS)), rng.randrange(1 << 30)
    if kind == "foreign":
        path, how = rng.choice(rng.choice(list(FOREIGN.values())))
        return Damage(kind, path, how, seed=seed)
    name, paths = rng.choice(original.of_kind(kind))
    path = rng.choice(paths)
    siblings = _siblings(paths, path)
    how = rng.choice(_ways(kind, path, siblings, is_file=path in original.files.get(name, ())))
    return Damage(kind, path, how, rng.choice(siblings) if how in _WITH_ANOTHER else "", seed)


_WITH_ANOTHER = ("two of one kind", "to another")


def _ways(kind: str, path: str, siblings: Sequence[str], *, is_file: bool) -> list[str]:
    """Return the ways of a kind that a path can be damaged in."""
    if kind == "truncate":
        return ["to nothing", "somewhere"]
    if kind == "link":
        return ["dangling", "to itself", "to somebody else's", *["to another"] * bool(siblings)]
    if kind == "junk" and not is_file:
        return ["a file in the place of a folder"]
    if kind == "junk":
        some = JUNK if path.endswith(".json") else ("bytes", "not UTF-8")
        return [*some, "a folder in the place of a file"]
    return [{"delete": "gone", "newer": "unknown fields", "swap": "two of one kind"}[kind]]


def _siblings(paths: Sequence[str], path: str) -> list[str]:
    """Return others of its class: of two manifests rather the other manifest than a smoke test."""
    others = [one for one in paths if one != path]
    return [one for one in others if _name(one) == _name(path)] or others


def _name(path: str) -> str:
    return path.rpartition("/")[2]


_PLACES = (
    "",
    f"{MODEL}/",
    f"{MODEL}/3/",
    f"{MODEL}/1/",
    f"{MODEL}/releases/",
    f"{MODEL}/deployments/",
    f"{MODEL}/deployments/d2/",
    f"{MODEL}/leases/",
    f"{MODEL}/bakes/",
    f"{MODEL}/engines/",
    f"{MODEL}/engines/2/",
    f"{MODEL}/engines/3/",
    f"{MODEL}.v2/",
    f"{MODEL}.v3/",
)
FOREIGN: dict[str, list[tuple[str, str]]] = {
    "files": [
        (f"{place}{name}", "a file") for place in _PLACES for name in ("notes.txt", ".hidden", "notes.json")
    ],
    "folders": [(f"{place}{name}", "a folder") for place in _PLACES for name in ("77", "old", ".hidden")],
    "links": [(f"{place}{name}", "a link") for place in _PLACES for name in ("78", "link")],
    "models": [
        ("legacy", "a served model"),
        ("legacy", "a model"),
        (f"{MODEL}.v77", "a served model"),
        (f"{MODEL}.v77", "a model"),
        (f"{MODEL}.v78", "a link"),
        (f"{MODEL}.v79", "a file"),
        (f"{MODEL}.v80", "a folder"),
    ],
    "deadly": [
        (f"{MODEL}/{DEADLY}", "deadly"),
        (f"{MODEL}/{DEADLY}.failed_20260101T000000", "deadly"),
        (f"{MODEL}.v3/{DEADLY}", "deadly"),
    ],
    "in the way": [
        (f"{MODEL}/4", "in the way"),
        (f"{MODEL}.v4", "in the way"),
        (f"{MODEL}/engines/4", "in the way"),
    ],
}
"""Foreign additions to the repository: paths and ways, by purpose."""


# What has to stay

Snapshot = dict[str, tuple[str, int, str | bytes]]


def snapshot(*paths: Path) -> Snapshot:
    """Return type, mode, and target or bytes of each path and of all that is below it."""
    found: Snapshot = {}
    for top in paths:
        below = [top] if top.is_symlink() or not top.is_dir() else [top, *sorted(top.rglob("*"))]
        for path in below:
            found[str(path)] = _seen(path)
    return found


def _seen(path: Path) -> tuple[str, int, str | bytes]:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return "gone", 0, ""
    if stat.S_ISLNK(mode):
        return "link", mode, str(path.readlink())
    return ("folder", mode, "") if stat.S_ISDIR(mode) else ("file", mode, path.read_bytes())

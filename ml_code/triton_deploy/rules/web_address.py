"""Web addresses in settings: their faults, their user and password, and how messages show them.

Pure rules: standard library only, no I/O. An address may hold a password in more than one place, and a
wrong address may, too. So a message shows an address only by ``shown``.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mssql")
"""Schemes of MLflow's databases; a driver may follow, as in ``mysql+pymysql``."""
HIDDEN = "…"


def shown(url: object) -> str:
    """Return an address for a message: without user and password, query and fragment, in one line.

    Args:
        url: an address, or any text in its place.
    """
    scheme, colon, rest = " ".join(str(url).split()).partition("://")
    if not colon:
        scheme, rest = "", scheme
    before, at, after = rest.rpartition("@")
    if at and re.search(r"[/?#]", before):
        # The '@' may belong to a path or query, or the '/' or '?' to a password: hide everything.
        return f"{scheme}{colon}{HIDDEN}"
    return scheme + colon + re.split(r"[?#]", after)[0]


def fault(url: str) -> str:
    """Return why a text is no address of a web server, to complete "X is …"; empty for an address.

    Args:
        url: the text, without white space around it.
    """
    if url[:1] in "'\"" or url[-1:] in "'\"":
        return "in quotation marks"
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "not one address: it has white space in it"
    parts = split(url)
    if _scheme(url) not in ("http", "https"):
        return "not an http:// or https:// URL"
    if parts is None or not parts.netloc or not parts.hostname:
        return "not the address of a server: its host or its port is none"
    if parts.query or parts.fragment or "@" in parts.path:
        return "not a base URL: it has a query, a fragment or an '@' in its path"
    return ""


def split(url: str) -> SplitResult | None:
    """Return the parts of an address; None if it can't be parsed, or if its port does not exist."""
    try:
        parts = urlsplit(url)
        if parts.port is not None and not parts.port > 0:
            return None
    except ValueError:
        return None
    return parts


def credentials(url: str) -> tuple[str, str, str]:
    """Return an address without user and password, then the user and the password, or empty texts.

    Args:
        url: an address without a ``fault``.
    """
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, unquote(parts.username or ""), unquote(parts.password or "")


def remedy(url: str) -> str:
    """Return the advice for an address with a ``fault``.

    Args:
        url: the text, without white space around it.
    """
    if url[:1] in "'\"" or url[-1:] in "'\"":
        return "Take the quotation marks off: they belong to a shell, and a file of variables has none."
    scheme = _scheme(url)
    if scheme in ("http", "https"):
        encode = " In a user or password write '@', ':', '/', '?' and '#' as %40, %3A, %2F, %3F and %23."
        return f"Write {scheme}://host:port, with a port from 1 to 65535 and nothing after it but a path.{encode if '@' in url else ''}"
    if scheme and "://" in url:
        return f"Write http:// or https:// in place of {scheme}://, for example http://{shown(url).partition('://')[2] or 'host:port'}."
    if scheme and not _is_host_and_port(url):
        return "Set it to the address of the server, for example http://host:port."
    bare = shown(url).lstrip("/")
    return f"Write it with its scheme, for example http://{bare or 'host:port'}."


def tracking_remedy(uri: str) -> str:
    """Return the advice for an MLFLOW_TRACKING_URI that is no address of a web server.

    Args:
        uri: a URI that MLflow's own client may take and a deployer can't: a database, a folder,
            Databricks, a plugin, or a store of artifacts.
    """
    scheme = _scheme(uri).partition("+")[0]
    if uri[:1] in "'\"" or uri[-1:] in "'\"" or scheme in ("http", "https"):
        return remedy(uri)
    if scheme in DATABASES:
        return (
            f"That is the database of an MLflow server, and the deployer asks the server: start 'mlflow server --backend-store-uri "
            f"{shown(uri)}', and set MLFLOW_TRACKING_URI to its address, for example http://127.0.0.1:5000."
        )
    if scheme in ("databricks", "databricks-uc", "uc") or uri in ("databricks", "databricks-uc"):
        return (
            "Databricks is not supported: the deployer needs an MLflow server of its own ('mlflow server'). Register the models there, "
            "and set MLFLOW_TRACKING_URI to its address."
        )
    if scheme in ("s3", "gs", "wasbs", "abfss", "mlflow-artifacts"):
        return (
            "That is a store of files, not an MLflow server. Set MLFLOW_TRACKING_URI to the server, for example http://mlflow:5000; "
            "the store is its --artifacts-destination."
        )
    if scheme == "file" or _is_folder(uri):
        return (
            f"A folder serves no other machine: start 'mlflow server --backend-store-uri {shown(uri)}', and set MLFLOW_TRACKING_URI to "
            "its address, for example http://127.0.0.1:5000."
        )
    if scheme and not _is_host_and_port(uri):
        return (
            "Stores that a plugin of MLflow's client opens are not supported: set MLFLOW_TRACKING_URI to an MLflow server, for example "
            "http://mlflow:5000."
        )
    return remedy(uri)


def _scheme(text: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    return found[1].lower() if found else ""


def _is_host_and_port(text: str) -> bool:
    return re.fullmatch(r"(?:\S+@)?[A-Za-z0-9._-]+:\d+(?:/\S*)?", text) is not None


def _is_folder(text: str) -> bool:
    return (
        text.startswith((".", "/", "~", "\\"))
        or text == "mlruns"
        or text.endswith("/mlruns")
        or re.match(r"[A-Za-z]:[/\\]", text) is not None
    )

"""Which certificates a connection trusts, and which client certificate it shows, for each kind of server.

The rules come from the environment. MLflow's own client reads the same variables, so a worker on which that
client works needs no others. For S3 they are the variables of MLflow's client and of boto3. An unusable
variable raises an error before any connection is made.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ...errors import Misconfigured

Kind = Literal["mlflow", "s3", "other"]

CLIENT_CERTIFICATE = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
_BUNDLES: Mapping[Kind, tuple[str, ...]] = {
    "mlflow": ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "s3": ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "other": ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
}
_UNCHECKED: Mapping[Kind, str] = {"mlflow": "MLFLOW_TRACKING_INSECURE_TLS", "s3": "MLFLOW_S3_IGNORE_TLS"}


@dataclass(frozen=True)
class Trust:
    """How the certificate of a server is checked.

    Attributes:
        kind: of the server.
        verify: a file or folder of certificates to trust, True for the public authorities, False for no
            check.
        cert: file with the client certificate and its key, or None.
    """

    kind: Kind = "other"
    verify: bool | str = True
    cert: str | None = None


def trust(kind: Kind, environ: Mapping[str, str] | None = None) -> Trust:
    """Read how the certificates of a kind of server are checked.

    Args:
        kind: ``mlflow``, ``s3`` or any other.
        environ: variables to read; the process's own by default.

    Raises:
        Misconfigured: a variable names a file that can't be used, or two contradict each other.
    """
    environ = os.environ if environ is None else environ
    unchecked = kind in _UNCHECKED and _flag(_UNCHECKED[kind], environ)
    name, bundle = _first_set(_BUNDLES[kind], environ)
    if unchecked and name == "MLFLOW_TRACKING_SERVER_CERT_PATH":
        raise Misconfigured(
            f"{_UNCHECKED[kind]} says not to check MLflow's certificate, and {name} says by what to check it.",
            hint="Unset one of them.",
        )
    if bundle and not unchecked:
        _check_bundle(name, bundle)
    _, cert = _first_set((CLIENT_CERTIFICATE,) if kind == "mlflow" else (), environ)
    if cert:
        _check_client_certificate(cert)
    return Trust(kind, False if unchecked else bundle or True, cert or None)


def refusal(error: BaseException, server: str, kind: Kind) -> Misconfigured | None:
    """Return the error for a TLS handshake that failed; None for an exception with another cause.

    Args:
        error: exception of the HTTP libraries.
        server: name of the server in messages.
        kind: of the server.
    """
    found = next((each for each in chain(error) if isinstance(each, ssl.SSLError)), None)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _untrusted(found, server, kind)
    if isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    reason = (found.reason or "").upper()
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
        return Misconfigured(
            f"{server} is asked over https:// and does not answer with TLS.",
            hint="Write its address with http://, or with the port of its https://.",
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE" in reason):
        return _not_let_in(reason, server, kind)
    return None


def broken_off(error: BaseException, kind: Kind) -> str:
    """Return a further hint for a connection that broke within TLS; empty for other errors.

    Args:
        error: exception of the HTTP libraries.
        kind: of the server.
    """
    if not any(isinstance(each, ssl.SSLEOFError | ssl.SSLZeroReturnError) for each in chain(error)):
        return ""
    # A server that misses a client certificate may hang up before its TLS alert is read.
    if kind == "mlflow":
        return (
            f" If it asks for client certificates, set {CLIENT_CERTIFICATE} to a file with one and its key."
        )
    return " If it asks for client certificates: one is sent to MLflow only."


def _untrusted(error: ssl.SSLCertVerificationError, server: str, kind: Kind) -> Misconfigured:
    # For a wrong name, Python's text begins with the reason and goes on with both names.
    why = error.verify_message.rstrip(".")
    bundle = _BUNDLES[kind][0]
    if error.verify_code in (9, 10):
        hint = "Renew the server's certificate, or set this machine's clock."
    elif error.verify_code in (62, 64):
        hint = "Set the address to a name that the certificate has, or have one made with this name."
    else:
        off = (
            f" {_UNCHECKED[kind]}=true checks no certificate: for trials only." if kind in _UNCHECKED else ""
        )
        every = "" if bundle == "REQUESTS_CA_BUNDLE" else " (REQUESTS_CA_BUNDLE holds for every server)"
        hint = f"Set {bundle} to the file with the certificate of the authority that issued it{every}.{off}"
    return Misconfigured(f"The certificate of {server} is not trusted: {why}.", hint=hint)


def _not_let_in(reason: str, server: str, kind: Kind) -> Misconfigured:
    said = reason.lower().replace("_", " ")
    if kind == "mlflow":
        hint = f"Set {CLIENT_CERTIFICATE} to a file with a client certificate that the server trusts, and its key."
    else:
        hint = "It may want a client certificate, which is sent to MLflow only: have this address let in without one."
    return Misconfigured(f"{server} refuses this client's TLS: {said}.", hint=hint)


def _flag(name: str, environ: Mapping[str, str]) -> bool:
    text = environ.get(name, "").strip().lower()
    if text not in ("", "true", "1", "false", "0"):
        raise Misconfigured(
            f"{name}={text!r} is neither true nor false.", hint="Unset it for the default, false."
        )
    return text in ("true", "1")


def _first_set(names: Iterable[str], environ: Mapping[str, str]) -> tuple[str, str]:
    return next(((name, environ[name].strip()) for name in names if environ.get(name, "").strip()), ("", ""))


def _check_bundle(name: str, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            context.load_verify_locations(path)
    except OSError as error:
        raise _unusable(name, path, error, "certificates in PEM form") from error


def _check_client_certificate(path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Without this callback the library would ask for the key's password at the terminal.
        context.load_cert_chain(path, password=lambda: b"")
    except (OSError, ValueError) as error:
        wanted = "a certificate and its key, not encrypted, in PEM form"
        raise _unusable(CLIENT_CERTIFICATE, path, error, wanted) from error


def _unusable(name: str, path: str, error: Exception, wanted: str) -> Misconfigured:
    # An ``ssl.SSLError`` is an OSError too, but its number is OpenSSL's.
    told = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
    why = error.strerror if told and isinstance(error, OSError) else f"it does not hold {wanted}"
    return Misconfigured(
        f"{name}={path!r} can't be used: {why}.",
        hint="Set it to a file that this user can read, or unset it.",
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and every exception in its arguments, reason, cause and context."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [getattr(each, "reason", None), *each.args, each.__cause__, each.__context__]

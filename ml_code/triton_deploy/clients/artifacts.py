"""Chooses the store of an artifact: MLflow's proxy or S3 itself.

A file of either store is read by an HTTP GET, which transfer.py streams to disk.
"""

from __future__ import annotations

from ..rules.locations import ProxyPlace, S3Place, not_from_here
from ..rules.version_files import RemoteFile
from ..settings import Settings
from .proxied_store import ProxiedStore
from .s3_store import S3Store
from .sources import ArtifactStore, Source, place_of

__all__ = ["ArtifactStore", "ProxiedStore", "RemoteFile", "S3Store", "Source", "store_for"]


def store_for(uri: str, settings: Settings) -> ArtifactStore:
    """Return the store that holds ``uri``.

    Raises:
        Misconfigured: this machine can't read from that place, TRITON_DEPLOY_ARTIFACT_ROOTS forbids it, or
            a variable of the store can't be used.
        ArtifactRejected: ``uri`` names no place.
    """
    place = place_of(uri)
    settings.transfer.allowed_artifacts.require(place)
    if isinstance(place, S3Place):
        return S3Store(settings)
    if isinstance(place, ProxyPlace):
        return ProxiedStore(settings)
    raise not_from_here(place)

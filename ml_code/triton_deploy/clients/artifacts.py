"""Where artifacts are: behind MLflow's proxy, or in S3 itself. Lists them, and says how to read each.

Both ways end in an HTTP GET that transfer.py streams to disk.
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
        Misconfigured: a place that this machine can't or, by TRITON_DEPLOY_ARTIFACT_ROOTS, may not read from, or what the environment says of the store can't be used.
        ArtifactRejected: no place at all.
    """
    place = place_of(uri)
    settings.transfer.allowed_artifacts.require(place)
    if isinstance(place, S3Place):
        return S3Store(settings)
    if isinstance(place, ProxyPlace):
        return ProxiedStore(settings)
    raise not_from_here(place)

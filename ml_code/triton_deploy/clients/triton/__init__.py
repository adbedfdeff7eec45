"""The Tritons: the protocol of a server, its gRPC implementation, and the servers in the settings."""

from __future__ import annotations

from .addresses import staging_of, tritons_of
from .grpc_triton import GrpcTriton
from .protocol import Index, Inference, ModelState, Phase, ServerInfo, Triton

__all__ = [
    "GrpcTriton",
    "Index",
    "Inference",
    "ModelState",
    "Phase",
    "ServerInfo",
    "Triton",
    "staging_of",
    "tritons_of",
]

"""The Tritons: a protocol of one server, its implementation by gRPC, and the servers that the settings name."""

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

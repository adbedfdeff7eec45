"""Fixtures of the fault tests."""

from tests.world import fresh_world, world

__all__ = ["fresh_world", "world"]

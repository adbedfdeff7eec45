"""Fixtures of the unit tests."""

from tests.support.world import fresh_world, world

__all__ = ["fresh_world", "world"]

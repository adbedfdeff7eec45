"""Settings with a few changed, those in groups too."""

from dataclasses import fields, replace
from typing import Any

from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.settings.environment import FromEnvironment


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some changed, each by its name; ``bake__minutes`` is ``minutes`` of the group ``bake``."""
    for name, value in changes.items():
        group, _, field = name.rpartition("__")
        new = replace(getattr(settings, group), **{field: value}) if group else value
        settings = replace(settings, **{group or field: new})
    return settings


def by_variable(settings: FromEnvironment) -> dict[str, Any]:
    """Return the value of each setting by its variable, which older code calls the same."""
    found: dict[str, Any] = {}
    for f in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, f.name)
        found |= by_variable(value) if isinstance(value, FromEnvironment) else {f.metadata["variable"]: value}
    return found

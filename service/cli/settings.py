"""``settings``: what every setting comes to, and where that comes from. Needs no pod."""

import argparse
from typing import Any

from service import settings
from service.cli.output import columns, show
from service.probes.errors import mask
from service.settings import Settings


def run(options: argparse.Namespace) -> int:
    """Shows the settings, secrets masked; 0 when they can be used."""
    found = document(settings.load())
    show(options, found, text(found))
    return 0


def document(given: Settings) -> dict[str, Any]:
    """Every setting by its preferred name."""
    sources = settings.sources()
    values = given.model_dump(mode="json") | {
        "run_dir": str(given.directory),
        "prometheus_multiproc_dir": str(given.metrics_directory),
        "health_startup_checks": list(given.startup_checks),
    }
    return {
        settings.variables(field)[0]: {
            "value": mask(value) if isinstance(value, str) else value,
            "source": _kind(sources.get(field)),
            "variable": sources.get(field),
        }
        for field, value in values.items()
    }


def text(found: dict[str, Any]) -> str:
    """The table."""
    return columns(
        ("SETTING", "VALUE", "FROM"),
        [
            (name, _written(setting["value"]), setting["variable"] or setting["source"])
            for name, setting in found.items()
        ],
    )


def _kind(variable: str | None) -> str:
    if variable is None:
        return "default"
    return "file" if variable.endswith("_FILE") else "environment"


def _written(value: Any) -> str | None:
    """A value as one would write it into the environment."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else value

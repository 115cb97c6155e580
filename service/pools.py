"""Makes the application's database pools visible to the health of the pod.

    engine = service.pools.create_engine()      # from DATABASE_URL and DB_POOL_SIZE
    engine = service.pools.watch(my_engine)     # or one the application made itself

Each worker publishes the figures of its own engines; the database check adds them up over the
pod. Looking at a pool takes no connection from it.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from service import settings
from service.health import PoolUse

# SQLAlchemy is imported where an engine is made or watched: processes without one ask too.
if TYPE_CHECKING:
    from sqlalchemy import Engine

INVALID_WINDOW = 300.0

_watched: "weakref.WeakKeyDictionary[Engine, deque[float]]" = weakref.WeakKeyDictionary()


def create_engine(**options: Any) -> "Engine":
    """An engine for the application, with the pool the settings ask for, watched.

    Args:
        options: Passed on to SQLAlchemy's ``create_engine``; they win over the settings.

    Raises:
        SettingsError: ``DATABASE_URL`` is not set, or a setting cannot be used.
        sqlalchemy.exc.ArgumentError: The URL is none.
    """
    from sqlalchemy import create_engine as sqlalchemy_engine  # noqa: PLC0415 - see the top
    from sqlalchemy import make_url  # noqa: PLC0415 - see the top

    given = settings.load()
    if given.database_url is None:
        raise settings.SettingsError("DATABASE_URL is not set")
    url = make_url(normalised(given.database_url.get_secret_value()))
    in_memory = url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")
    if not in_memory and "poolclass" not in options:  # others have no pool to size
        pool = {"pool_size": given.db_pool_size, "max_overflow": given.db_max_overflow}
        options = {**pool, **options}
    return watch(sqlalchemy_engine(url, **options))


def normalised(url: str) -> str:
    """A database URL as SQLAlchemy reads it, PostgreSQL by psycopg 3."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg"
    return f"{scheme}{separator}{rest}"


def watch(engine: "Engine") -> "Engine":
    """Counts an engine's pool into the pod's figures from now on, and returns it."""
    from sqlalchemy import event  # noqa: PLC0415 - see the top

    if engine not in _watched:
        thrown_away = _watched[engine] = deque()
        event.listen(engine, "invalidate", lambda *_: thrown_away.append(time.monotonic()))
    return engine


def figures(clock: Callable[[], float] = time.monotonic) -> PoolUse | None:
    """The figures of this process's engines added up; None when it has none."""
    uses = [
        _use(engine, thrown, clock() - INVALID_WINDOW) for engine, thrown in list(_watched.items())
    ]
    if not uses:
        return None

    counted = [use for use in uses if use.size is not None]

    def total(name: str) -> int | None:
        numbers = [getattr(use, name) for use in counted]
        return sum(numbers) if numbers and None not in numbers else None

    return PoolUse(**{field.name: total(field.name) for field in fields(PoolUse)})


def _use(engine: "Engine", thrown_away: deque[float], since: float) -> PoolUse:
    pool: Any = engine.pool
    if not hasattr(pool, "checkedout") or not hasattr(pool, "size"):
        return PoolUse(None, None, None, None, None, None)  # a pool that keeps no numbers
    while thrown_away and thrown_away[0] < since:
        thrown_away.popleft()
    # Not taken at one instant: a figure may be one off, but never negative.
    beyond = getattr(pool, "_max_overflow", 0)
    return PoolUse(
        size=pool.size(),
        checked_in=pool.checkedin(),
        checked_out=pool.checkedout(),
        overflow=max(0, pool.overflow()),
        invalid=len(thrown_away),
        capacity=None if beyond < 0 else pool.size() + beyond,
    )

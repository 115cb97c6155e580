"""The figures of an application's real engines, over sqlite."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, text
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from service import pools
from service.health import PoolUse
from service.pools import INVALID_WINDOW, create_engine, figures, normalised, watch
from service.settings import Settings, SettingsError, variables

NOTHING_KEPT = PoolUse(None, None, None, None, None, None)

Make = Callable[..., Engine]


@pytest.fixture(autouse=True)
def _nothing_else_is_watched() -> Iterator[None]:
    pools._watched.clear()
    yield
    pools._watched.clear()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes watched engines, each on a file of its own."""
    engines: list[Engine] = []

    def make(**options: Any) -> Engine:
        url = f"sqlite:///{tmp_path}/{len(engines)}.sqlite3"
        engines.append(watch(sqlalchemy.create_engine(url, **options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for field in Settings.model_fields:
        for name in variables(field):
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_an_engine_there_are_no_figures() -> None:
    assert figures() is None


def test_a_new_pool_is_empty(make: Make) -> None:
    make(pool_size=5, max_overflow=2)
    assert figures() == PoolUse(
        size=5, checked_in=0, checked_out=0, overflow=0, invalid=0, capacity=7
    )


def test_a_pool_in_use(make: Make) -> None:
    engine = make(pool_size=2, max_overflow=3)
    seen = []

    def look() -> None:
        use = figures()
        assert use is not None
        seen.append((use.checked_out, use.checked_in, use.overflow))

    held = []
    for _ in range(4):
        held.append(engine.connect())
        look()
    for connection in held:
        connection.close()
        look()
    assert seen == [
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, 1),
        (4, 0, 2),
        (3, 1, 2),
        (2, 2, 2),
        (1, 2, 1),
        (0, 2, 0),
    ]


def test_overflow_is_never_negative(make: Make) -> None:
    """SQLAlchemy counts from minus the size upwards."""
    engine = make(pool_size=5, max_overflow=2)
    with engine.connect():
        pool: Any = engine.pool
        assert pool.overflow() == -4
        use = figures()
        assert use is not None
        assert use.overflow == 0


def test_looking_takes_no_connection(make: Make) -> None:
    engine = make(pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        assert figures() == PoolUse(1, 0, 1, 0, 0, 1)
    opened = []
    sqlalchemy.event.listen(engine, "checkout", lambda *_: opened.append(1))
    figures()
    assert opened == []


def test_the_figures_after_a_dispose(make: Make) -> None:
    engine = make(pool_size=3, max_overflow=0)
    with engine.connect():
        pass
    engine.dispose()
    assert figures() == PoolUse(3, 0, 0, 0, 0, 3)
    with engine.connect():
        assert figures() == PoolUse(3, 0, 1, 0, 0, 3)


# -- connections thrown away


def throw_away(engine: Engine, times: int = 1) -> None:
    for _ in range(times):
        with engine.connect() as connection:
            connection.invalidate()


@pytest.mark.parametrize(
    ("age", "invalid"),
    [
        pytest.param(0.0, 3, id="just now"),
        pytest.param(290.0, 3, id="within the last 300 s"),
        pytest.param(301.0, 0, id="longer ago"),
    ],
)
def test_connections_thrown_away_lately(make: Make, age: float, invalid: int) -> None:
    throw_away(make(), 3)
    now = time.monotonic()
    use = figures(clock=lambda: now + age)
    assert use is not None
    assert use.invalid == invalid
    assert INVALID_WINDOW == 300.0


def test_they_are_counted_after_a_dispose_too(make: Make) -> None:
    engine = make()
    throw_away(engine)
    engine.dispose()
    throw_away(engine)
    use = figures()
    assert use is not None
    assert use.invalid == 2


def test_an_orderly_close_throws_nothing_away(make: Make) -> None:
    engine = make()
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    use = figures()
    assert use is not None
    assert use.invalid == 0


def test_a_lost_connection_is_thrown_away(make: Make) -> None:
    """As the application meets it: the driver says that the connection is gone."""
    engine = make()

    @sqlalchemy.event.listens_for(engine, "handle_error")
    def _gone(context: Any) -> None:
        context.is_disconnect = True

    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.DBAPIError):
        connection.execute(text("SELECT nonsense"))
    use = figures()
    assert use is not None
    assert use.invalid is not None
    assert use.invalid >= 1


# -- pools that keep no numbers


@pytest.mark.parametrize("kind", [NullPool, StaticPool, SingletonThreadPool, AssertionPool])
def test_a_pool_that_keeps_no_numbers(make: Make, kind: type[sqlalchemy.Pool]) -> None:
    engine = make(poolclass=kind)
    with engine.connect():
        assert figures() == NOTHING_KEPT


def test_a_pool_without_a_limit_has_no_capacity(make: Make) -> None:
    make(pool_size=5, max_overflow=-1)
    assert figures() == PoolUse(5, 0, 0, 0, 0, None)


# -- several engines


def test_the_figures_of_two_engines_are_added_up(make: Make) -> None:
    one = make(pool_size=5, max_overflow=2)
    two = make(pool_size=1, max_overflow=9)
    throw_away(one)
    throw_away(two)
    with one.connect(), two.connect(), two.connect():
        assert figures() == PoolUse(
            size=6, checked_in=0, checked_out=3, overflow=1, invalid=2, capacity=17
        )


def test_an_engine_that_keeps_no_numbers_adds_nothing(make: Make) -> None:
    make(poolclass=NullPool)
    make(pool_size=5, max_overflow=2)
    assert figures() == PoolUse(5, 0, 0, 0, 0, 7)


def test_one_engine_without_a_limit_makes_the_sum_unlimited(make: Make) -> None:
    """Else its connections would fill the capacity of the other."""
    make(pool_size=1, max_overflow=0)
    unlimited = make(pool_size=1, max_overflow=-1)
    with unlimited.connect(), unlimited.connect():
        use = figures()
        assert use is not None
        assert (use.checked_out, use.capacity) == (2, None)


def test_an_engine_is_counted_once(make: Make) -> None:
    engine = make(pool_size=5, max_overflow=0)
    throw_away(engine)
    assert watch(watch(engine)) is engine
    throw_away(engine)
    use = figures()
    assert use is not None
    assert (use.size, use.invalid, use.capacity) == (5, 2, 5)


def test_an_engine_nobody_uses_any_more_is_forgotten(tmp_path: Path) -> None:
    engine = watch(sqlalchemy.create_engine(f"sqlite:///{tmp_path}/gone.sqlite3"))
    assert figures() is not None
    engine.dispose()
    del engine
    gc.collect()
    assert figures() is None


def test_an_engine_may_be_made_while_somebody_looks(make: Make) -> None:
    """In a request, while the worker's main loop adds the figures up."""
    for _ in range(2):
        make()
    made: list[Engine] = []

    def clock() -> float:
        if not made:
            # Watched by another thread, in the middle of the looking.
            thread = threading.Thread(target=lambda: made.append(make()))
            thread.start()
            thread.join(60)
        return 0.0

    use = figures(clock=clock)
    assert use is not None
    assert use.size in (10, 15)


# -- from the settings


def test_an_engine_from_the_settings(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/a.sqlite3")
    env.setenv("DB_POOL_SIZE", "3")
    env.setenv("DB_MAX_OVERFLOW", "4")
    engine = create_engine()
    try:
        assert isinstance(engine.pool, QueuePool)
        assert figures() == PoolUse(3, 0, 0, 0, 0, 7)
    finally:
        engine.dispose()


def test_options_win_over_the_settings(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/a.sqlite3")
    engine = create_engine(pool_size=7, echo=False)
    try:
        use = figures()
        assert use is not None
        assert (use.size, use.capacity) == (7, 27)
    finally:
        engine.dispose()


def test_another_kind_of_pool_wins_too(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/a.sqlite3")
    engine = create_engine(poolclass=NullPool)
    with engine.connect():
        assert figures() == NOTHING_KEPT


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite+pysqlite://",
        "sqlite+pysqlite:///:memory:",
    ],
)
def test_a_database_in_memory_has_no_pool_to_size(env: pytest.MonkeyPatch, url: str) -> None:
    env.setenv("DATABASE_URL", url)
    engine = create_engine()
    try:
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
            assert figures() == NOTHING_KEPT
    finally:
        engine.dispose()


def test_without_a_url_there_is_no_engine(env: pytest.MonkeyPatch) -> None:
    env.setenv("DATABASE_URL", "")
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set$"):
        create_engine()


def test_what_is_no_url_is_refused(env: pytest.MonkeyPatch) -> None:
    env.setenv("DATABASE_URL", "pa55word")
    with pytest.raises(sqlalchemy.exc.ArgumentError):
        create_engine()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2://h/d"),
        ("sqlite:///a", "sqlite:///a"),
        ("mysql+pymysql://h/d", "mysql+pymysql://h/d"),
        ("nonsense", "nonsense"),
    ],
)
def test_urls_as_sqlalchemy_reads_them(url: str, expected: str) -> None:
    assert normalised(url) == expected

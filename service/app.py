"""The composition root: builds what each process of the pod serves.

Under our gunicorn hooks a web worker gets ``web`` and the health worker ``health``. Any other
server, or ``flask run``, calls ``create_app``: one process that is both.
"""

import atexit
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask

from service import assembly, checks, pools
from service.advice import Runbook
from service.coordination.client import connect
from service.coordination.lease import keyspace
from service.coordinator import CALL_SECONDS, Coordinator, Member
from service.duties import Keeper, WatchDuties
from service.embedded import EmbeddedRedis, installed
from service.health import Check, Phase, Role
from service.log import configure
from service.metrics import Instruments, MultiprocessReader, take_slot
from service.monitor import Monitor, NoTasks, Startup
from service.scoreboard import Scoreboard, Slot
from service.settings import Settings, load_or_exit
from service.web.answers import Answers
from service.web.disclosure import Disclosure
from service.web.families import EXTENSION, Health, report_errors
from service.web.front import Front
from service.web.kubernetes import twins_bp
from service.web.payload import Payload
from service.web.reader import Reader
from service.web.root_health import index_bp, root_health_bp
from service.web.status_page.routes import status_page_bp
from service.web.system_health import system_health_bp

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = structlog.get_logger(__name__)

# The embedded server is there after some 50 ms; asked earlier, it would seem to be down.


def preload(settings: Settings) -> None:
    """Import what processes with these settings are going to need. Before any fork.

    Opens, starts and looks up nothing, and imports nothing of the application's.
    """
    assembly.preload(settings)
    if settings.startup_tasks is not None:
        from service import startup  # noqa: F401, PLC0415 - see _startup


def web(settings: Settings, board: Scoreboard, slot: Slot) -> Front:
    """What a web worker serves: the health routes beside the user's application.

    Raises:
        SettingsError: The application cannot be imported.
    """
    instruments = _instruments(settings)
    if settings.app_module is not None:
        application = checks.imported(settings.app_module, "APP_MODULE")
    else:
        application = None
        if settings.database_url is not None:
            _own_pool()
    views = _views(settings, board)
    families = partial(_made_families, views, Role.WEB)
    front = _front(views, slot, instruments, families, application)
    front.prepare()
    return front


def health(
    settings: Settings,
    board: Scoreboard,
    slot: Slot,
    *,
    epoch: int,
    patience: float,
) -> tuple[Front, WatchDuties]:
    """What the health worker serves, and what it does besides, the monitor already running.

    Args:
        settings: What the environment says.
        board: The pod's scoreboard.
        slot: The worker's own.
        epoch: Rank of its publications.
        patience: Seconds it outlives its siblings at most.

    Raises:
        SettingsError: The application's own checks or startup tasks cannot be had.
    """
    instruments = _instruments(settings)
    redis = _embedded(settings)
    if redis is not None:
        redis.ensure()
        redis.wait()
    monitor = _monitor(settings, board, instruments, redis, epoch)
    monitor.start()
    duties = WatchDuties(board, slot, epoch, monitor, redis, settings.directory, patience)
    views = _views(settings, board, events=True)
    families = partial(_made_families, views, Role.HEALTH)
    return _front(views, slot, instruments, families), duties


def create_app() -> Flask:
    """The whole service in this one process, for servers without our hooks."""
    settings = load_or_exit()
    configure(settings.log_level)
    board = Scoreboard.create(None, slots=1)
    board.expected = 1
    slot = board.slot(0)
    slot.assign(Role.WEB, generation=0, threads=settings.threads)
    slot.occupy()
    instruments = _instruments(settings)
    redis = _embedded(settings)
    application = (
        checks.imported(settings.app_module, "APP_MODULE") if settings.app_module else None
    )
    views = _views(settings, board)
    app = _flask(views, Role.WEB)
    families = views.before(app.wsgi_app)
    app.wsgi_app = _front(  # type: ignore[method-assign]
        views, slot, instruments, lambda: families, application
    )
    slot.enter(Phase.READY)

    def make_monitor() -> Monitor:
        return _monitor(settings, board, instruments, redis, epoch=board.next_epoch())

    keeper = Keeper(slot, make_monitor, redis)
    keeper.start()
    atexit.register(keeper.stop)
    return app


def _own_pool() -> None:
    """The pool the service itself offers where there is no other application."""
    global _pool  # noqa: PLW0603 - it lives as long as the process
    _pool = pools.create_engine()


_pool: Any = None


def _instruments(settings: Settings) -> Instruments:
    directory = settings.metrics_directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    take_slot(directory).use()
    instruments = Instruments()
    instruments.worker_started()
    return instruments


def _embedded(settings: Settings) -> EmbeddedRedis | None:
    if not _has_embedded(settings):
        return None
    try:
        return EmbeddedRedis(settings.directory)
    except ValueError as error:
        log.warning("no embedded Redis", reason=f"RUN_DIR: {error}")
        return None


def _has_embedded(settings: Settings) -> bool:
    return settings.redis_address is None and settings.redis_embedded == "auto" and installed()


def _monitor(
    settings: Settings,
    board: Scoreboard,
    instruments: Instruments,
    redis: EmbeddedRedis | None,
    epoch: int,
) -> Monitor:
    url = settings.redis_address or (redis.url if redis else None)
    probes = assembly.probes(settings, board, url)
    instruments.declare(probes)
    coordinator = _coordinator(settings, board, probes)
    return Monitor(
        probes,
        board,
        epoch,
        instruments,
        _startup(settings, board),
        fleet=coordinator,
        notices=assembly.notifier(settings, board, instruments),
    )


def _startup(settings: Settings, board: Scoreboard) -> Startup:
    if settings.startup_tasks is None:
        return NoTasks()
    # Here, because SQLAlchemy is only paid for by a pod that has tasks.
    from service import startup  # noqa: PLC0415

    return startup.build(settings, board)


def _coordinator(
    settings: Settings, board: Scoreboard, probes: Iterable[Check]
) -> Coordinator | None:
    """The pod's part in the fleet; None where no Redis of several pods is configured."""
    url = settings.redis_address
    if url is None:
        return None
    connected = partial(connect, url, timeout=CALL_SECONDS)
    try:
        connected().close()
    except ValueError:
        return None  # the Redis check says so
    member = Member(
        keyspace(settings.health_redis_key_prefix, settings.app_name, settings.app_env),
        {"host": socket.gethostname()[:255], "release": settings.app_release},
        checks.limits(settings),
        settings.health_fleet_interval_seconds,
        settings.readiness_floor,
    )
    return Coordinator(connected, board, probes, member)


def _views(settings: Settings, board: Scoreboard, *, events: bool = False) -> Health:
    has_redis = settings.redis_address is not None or _has_embedded(settings)
    reader = Reader(board, checks.definitions(settings, redis=has_redis), checks.limits(settings))
    payload = Payload(
        settings.app_name, settings.app_version, settings.app_env, debug=settings.flask_debug
    )
    disclosure = Disclosure(
        settings.health_trusted_networks,
        settings.health_trusted_proxies,
        settings.health_trusted_hosts,
        [token.get_secret_value() for token in settings.health_details_token],
    )
    return Health(
        Answers(reader, payload),
        disclosure,
        MultiprocessReader(settings.metrics_directory),
        settings.app_version,
        Runbook(settings.runbook),
        events=events,
    )


def _front(
    views: Health,
    slot: Slot,
    instruments: Instruments,
    families: "Callable[[], WSGIApplication]",
    application: "WSGIApplication | None" = None,
) -> Front:
    return Front(views.answers, views.disclosure, slot, instruments.request, families, application)


def _made_families(views: Health, role: Role) -> "WSGIApplication":
    return views.before(_flask(views, role).wsgi_app)


def _flask(views: Health, role: Role) -> Flask:
    app = Flask("service", static_folder=None)
    app.url_map.merge_slashes = False  # a doubled slash is another path, not a redirect
    app.extensions[EXTENSION] = views
    app.register_blueprint(root_health_bp)
    app.register_blueprint(system_health_bp)
    app.register_blueprint(twins_bp)
    app.register_blueprint(status_page_bp)
    if role is Role.WEB:
        app.register_blueprint(index_bp)
    report_errors(app)
    return app

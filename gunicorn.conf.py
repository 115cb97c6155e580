"""gunicorn's settings for a pod: web workers on PORT, one health worker on HEALTH_PORT."""

from service.hooks import (  # noqa: F401 - gunicorn takes its hooks from here by name
    SETTINGS,
    child_exit,
    nworkers_changed,
    on_exit,
    on_reload,
    on_starting,
    post_fork,
    post_worker_init,
    pre_fork,
    pre_request,
    when_ready,
)
from service.log import AccessLog, configure

wsgi_app = "service.app:create_app()"
bind = [
    f"{SETTINGS.bind_host}:{SETTINGS.port}",
    f"{SETTINGS.bind_host}:{SETTINGS.health_port}",
]
workers = SETTINGS.web_concurrency + 1
worker_class = SETTINGS.worker_class
threads = SETTINGS.threads if SETTINGS.worker_class == "gthread" else 1
worker_tmp_dir = str(SETTINGS.directory)
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than nginx keeps an idle upstream connection (60), or requests are lost
control_socket_disable = True  # two masters of one user would take each other's
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={SETTINGS.metrics_directory}"]
logger_class = AccessLog
logconfig_dict = configure(SETTINGS.log_level)
loglevel = SETTINGS.log_level.lower()

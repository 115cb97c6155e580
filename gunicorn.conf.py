"""gunicorn's settings for a pod: web workers on PORT, one health worker on HEALTH_PORT."""

import os
import resource

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
host = f"[{SETTINGS.bind_host}]" if ":" in SETTINGS.bind_host else SETTINGS.bind_host
bind = [f"{host}:{SETTINGS.port}", f"{host}:{SETTINGS.health_port}"]
workers = SETTINGS.web_concurrency + 1
worker_class = SETTINGS.worker_class
threads = SETTINGS.threads if SETTINGS.worker_class == "gthread" else 1
# Heartbeats belong into memory, and into a directory that no cleaner empties.
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - gunicorn's files there have no name
worker_tmp_dir = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than nginx keeps an idle upstream connection (60), or requests are lost
control_socket_disable = True  # two masters of one user would take each other's
# A web worker that can open nothing more ends, and all its requests with it. Of what it may have
# open an eighth is for connections that are being closed, a quarter for everything but clients.
open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
worker_connections = min(1000, open_files * 5 // 8) if open_files > 0 else 1000
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={SETTINGS.metrics_directory}"]
logger_class = AccessLog
logconfig_dict = configure(SETTINGS.log_level)
loglevel = SETTINGS.log_level.lower()

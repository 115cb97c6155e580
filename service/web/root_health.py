"""The root family: flat documents under ``/health``, and the exposition under ``/metrics``."""

from flask import Blueprint

from service.web.endpoints import ENDPOINTS, INDEX
from service.web.families import add_endpoint, add_metrics

root_health_bp = Blueprint("root_health", __name__)
for _endpoint in ENDPOINTS:
    if not _endpoint.enveloped:
        add_endpoint(root_health_bp, _endpoint)
add_metrics(root_health_bp)

# ``/`` says which service this is; it belongs to the web listener, and to no other application.
index_bp = Blueprint("service_index", __name__)
add_endpoint(index_bp, INDEX)

"""The blueprint family: the same states in an envelope, under ``/api/system/health``."""

from flask import Blueprint

from service.web.endpoints import ENDPOINTS, FLEET, PREFIX
from service.web.families import add_endpoint, add_metrics, add_openapi

system_health_bp = Blueprint("system_health", __name__, url_prefix=PREFIX)
for _endpoint in ENDPOINTS:
    if _endpoint.enveloped:
        add_endpoint(system_health_bp, _endpoint)
add_endpoint(system_health_bp, FLEET)
add_metrics(system_health_bp)
add_openapi(system_health_bp)

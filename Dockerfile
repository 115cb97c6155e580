# The service in an image: no root, no shell, nothing writable.
#
#   docker build -t mingus-health .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --stop-timeout 50 \
#       -p 5003:5003 -p 5004:5004 mingus-health
#
# A stop drains for 10 s and then lets requests end: docker's own 10 s would cut them off.
#
# An application of your own goes on top, its requirements through a stage of their own, because
# there is no pip in here:
#
#   FROM python:3.13-slim-bookworm AS requirements
#   COPY requirements.txt .
#   RUN pip install --no-cache-dir --require-hashes --target /app -r requirements.txt
#
#   FROM mingus-health
#   COPY --from=requirements /app /app
#   COPY shop /app/shop
#   ENV APP_MODULE=shop.wsgi:app

# Both stages need the same one: the environment refers to its interpreter.
# checkov:skip=CKV_DOCKER_7:the tag is in the value of BASE
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
# Where packages come from, when not from the usual index: pip reads these by itself.
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
WORKDIR /build

# The tools that make a wheel, out of the same lock as everything else. They stay in this stage.
COPY requirements requirements
RUN awk '/^[a-z]/ {keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} keep' \
        requirements/dev.txt > requirements/build.txt \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --require-hashes -r requirements/base.txt

COPY pyproject.toml README.md gunicorn.conf.py ./
COPY docs/mingus-health.1 docs/
COPY service service
# Byte code is made here, once: a read-only image could not keep what a start makes.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-deps --no-index dist/mingus_health-*.whl \
    && /opt/venv/bin/python -m compileall -q /opt/venv/lib

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
# A number: Kubernetes cannot tell whether a name is root.
USER 10001:10001
EXPOSE 5003 5004
# From the pod's shared state, not over HTTP. Liveness, because what is unready must not be
# restarted. Kubernetes ignores it and asks the health listener itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["mingus-health", "check", "--kind", "liveness"]
ENTRYPOINT ["mingus-health", "serve"]

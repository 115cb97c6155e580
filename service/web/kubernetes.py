"""The twins of the probes: ``/livez``, ``/readyz``, ``/startupz``, and each of their checks."""

from flask import Blueprint, Response, abort, request

from service.metrics.formats import chosen
from service.web.endpoints import JSON, TEXT, TWINS, Endpoint
from service.web.families import add, health, other
from service.web.twins import Question

twins_bp = Blueprint("twins", __name__)


def _add_twin(endpoint: Endpoint, question: Question) -> None:
    def view(check: str | None = None) -> Response:
        asked = Question(
            question.twin,
            check,
            tuple(filter(None, request.args.getlist("exclude"))),
            "verbose" in request.args,
        )
        answers = health().answers
        if check is not None and not asked.parts(answers.reader.pod()):
            abort(404)
        if chosen(request.headers.get("Accept", ""), JSON, over="text/plain"):
            answer, media = answers.asked(endpoint, asked.as_document), JSON
        else:
            answer, media = answers.asked(endpoint, asked.as_text), TEXT
        status, body = answer
        return other(media, status, body)

    add(twins_bp, endpoint.path, question.twin, view)
    add(twins_bp, f"{endpoint.path}/<check>", f"{question.twin}_check", view)


for _endpoint in TWINS:
    if _endpoint.twin:
        _add_twin(_endpoint, _endpoint.twin)

"""The route ``/status``."""

from gzip import compress

from flask import Blueprint, Response, request

from service.web.answers import OK
from service.web.endpoints import HTML, PAGE
from service.web.families import add, health, respond
from service.web.status_page.document import document
from service.web.status_page.page import POLICY, render

QUICK = 1  # the level of compression: the page is made anew for each look

status_page_bp = Blueprint("status_page", __name__)


def _view() -> Response:
    here = health()
    answers = here.answers
    found = document(answers.reader, answers.payload, here.runbook, trusted=here.trusted())
    body = render(found, events=here.events)
    headers = {
        "Content-Type": HTML,
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
    }
    if request.accept_encodings["gzip"] > 0:
        return respond(OK, compress(body, QUICK), **headers, **{"Content-Encoding": "gzip"})
    return respond(OK, body, **headers)


add(status_page_bp, PAGE, "page", _view)

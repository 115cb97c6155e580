r"""A small shop: Flask, SQLAlchemy, a health check and a startup task of its own.

    APP_RELEASE=1 APP_MODULE=examples.shop:app HEALTH_CHECKS=examples.shop:checks \
      STARTUP_TASKS=examples.shop:tasks make run

Nothing in here serves a health route: the service does that beside it.
"""

import threading
from collections.abc import Callable

from flask import Flask, Response, jsonify, request
from sqlalchemy import Connection, Integer, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from service import Check, CheckFailed, Probe, StartupTask
from service.pools import create_engine

engine = create_engine()
app = Flask(__name__)


class Base(DeclarativeBase):
    """The shop's tables."""


class Product(Base):
    """Something to sell."""

    __tablename__ = "product"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    stock: Mapped[int] = mapped_column(Integer)


@app.get("/products")
def products() -> Response:
    """Everything in stock."""
    with Session(engine) as session:
        found = session.scalars(select(Product).order_by(Product.name))
        return jsonify([{"name": product.name, "stock": product.stock} for product in found])


@app.put("/products/<name>")
def put_product(name: str) -> tuple[Response, int]:
    """Puts a product into stock."""
    with Session(engine) as session, session.begin():
        session.merge(Product(name=name, stock=request.get_json()["stock"]))
    return jsonify(name=name), 201


@app.get("/slow")
def slow() -> Response:
    """Takes its time, as a report would."""
    threading.Event().wait(float(request.args.get("seconds", "1")))
    return jsonify(done=True)


def checks() -> dict[Check, Probe]:
    """The shop's own checks, registered by HEALTH_CHECKS."""
    return {Check("stock", interval=5, timeout=1): stock_is_counted}


def stock_is_counted() -> None:
    """Fails when a product is sold that is not there."""
    with Session(engine) as session:
        oversold = session.scalars(select(Product.name).where(Product.stock < 0)).first()
    if oversold is not None:
        raise CheckFailed("check_failed", f"{oversold} is oversold")


def tasks() -> dict[StartupTask, Callable[[Connection], None]]:
    """What is done once for each release, registered by STARTUP_TASKS."""
    return {StartupTask("tables"): Base.metadata.create_all}

"""Plain PostgreSQL URLs are read without SQLAlchemy, and mean what they mean to it."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from service.health import CheckFailed
from service.probes.drivers import parsed

PLAIN = "postgresql://shop:s%40cret@db.example.com:5433/shop-1?sslmode=require&connect_timeout=3"


def mostly(usual: str, odd: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([usual] * 3 * len(odd) + odd)


word = st.text("abzAZ09._~-%+!*$@:/#?&= \u00e9", max_size=3)
secret = st.sampled_from(["", "p%40ss", "%7E", "100%25", "%zz", "a+b", "%C3%A9", "%00", "*!$"])
option = st.builds(
    "{}={}".format,
    mostly("sslmode", ["ssl", "host", "port", "user", "options", "x"]),
    mostly("require", ["true", "3", "-c%20a=b", "/tmp", "a,b", "1+1", ""]),
)
urls = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"]),
    st.one_of(st.just(""), st.builds("{}@".format, word), st.builds("u:{}@".format, secret)),
    mostly("db", ["", "db.example.com:5433", "[::1]", "%2Ftmp", "a:1,b:2", "10.0.0.1:"]),
    mostly("/shop", ["", "/", "/s%20p", "/a/b", "/shop#x", "/shop-1"]),
    st.one_of(st.just(""), st.lists(option, max_size=2).map(lambda them: f"?{'&'.join(them)}")),
)


def sqlalchemy_s(url: str) -> dict[str, str]:
    address = make_url(url).set(drivername="postgresql+psycopg")
    options = address.get_dialect()().create_connect_args(address)[1]
    return {name: str(value) for name, value in options.items()}


@given(urls)
def test_what_is_read_without_sqlalchemy_means_the_same(url: str) -> None:
    try:
        options = parsed(url).options
    except CheckFailed:
        return
    assert options is None or options == sqlalchemy_s(url)


@pytest.mark.parametrize(
    "url",
    [
        PLAIN,
        "postgres://shop@db/shop",
        "postgresql+psycopg2://shop:@10.0.0.1/shop",
        "postgresql+psycopg://db:5432/shop",
    ],
)
def test_the_usual_urls_are(url: str) -> None:
    assert parsed(url).options == sqlalchemy_s(url)


def test_sqlalchemy_is_not_imported_for_them() -> None:
    program = f"""
import sys
from service.probes.drivers import driver_of, parsed
address = parsed({PLAIN!r})
driver_of(address, 1.0)
assert address.secrets == ("s@cret",), address.secrets
assert "psycopg" in sys.modules
assert "sqlalchemy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_whatever_names_a_secret_is_one() -> None:
    assert "hunter2" in parsed("postgresql://db/shop?sslpassword=hunter2").secrets
    assert "hunter2" in parsed("postgresql://db/shop?password=hunter2").secrets

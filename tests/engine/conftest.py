"""Fixtures: a Docker Engine for the run, homed as a process for a test, a registry."""

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.engine import DockerEngine, why_no_engine
from tests.support.homed import Homed
from tests.support.registry import Registry

Start = Callable[..., Homed]


@pytest.fixture(scope="session")
def the_engine() -> Iterator[DockerEngine]:
    """The engine of this run."""
    reason = why_no_engine()
    if reason is not None:
        pytest.skip(reason)
    with DockerEngine() as engine:
        yield engine


@pytest.fixture
def engine(the_engine: DockerEngine) -> Iterator[DockerEngine]:
    """The engine, running, and empty but for the tests' image."""
    the_engine.clean()
    yield the_engine
    the_engine.clean()


@pytest.fixture
def start(tmp_path: Path, the_engine: DockerEngine) -> Iterator[Start]:
    """`start()` is a homed that follows the engine; `start(api={…}, api__tls={…})` one with these tables in its TOML.

    `ready=False`: it need not follow an engine yet; `launch=False`: it is not started.
    """
    made: list[Homed] = []

    def make(
        *, engine: str = the_engine.address, launch: bool = True, ready: bool = True, **tables: Mapping[str, Any]
    ) -> Homed:
        named = {name.replace("__", "."): values for name, values in tables.items()}
        one = Homed(tmp_path / f"homed{len(made)}", engine, named)
        made.append(one)
        if launch:
            one.start()
            if ready:
                one.await_ready()
        return one

    yield make
    for one in made:
        if one.runs:
            one.kill()


@pytest.fixture
def homed(engine: DockerEngine, start: Start) -> Homed:
    """A homed on the engine."""
    return start()


@pytest.fixture
def api(homed: Homed) -> Api:
    return homed.api


@pytest.fixture(scope="session")
def registry(the_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that anybody may pull from."""
    with Registry(tmp_path_factory.mktemp("registry"), the_engine.machine) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of each homed's log beside a failure."""
    report = yield
    if report.when == "call" and report.failed:
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        for path in sorted(folder.glob("*/homed.log")) if folder is not None else ():
            report.sections.append((f"the end of {path.parent.name}'s log", path.read_text(errors="replace")[-6000:]))
    return report

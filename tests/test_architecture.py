"""The rules of the code's shape: arrows point one way, each foreign API has one home, modules stay small."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "homed"
_LONGEST_MODULE = 400

# Who may import whom, by the package directly under homed: `cli → daemon → api → capabilities → store, bus`.
CAPABILITIES = frozenset({"containers", "access", "host", "backups", "updates", "jobs", "processes", "cluster"})
BASE = frozenset(
    {
        "errors",
        "clock",
        "events",
        "config",
        "validation",
        "validation_messages",
        "json_structure",
        "atomic",
        "dirfd",
        "health",
        "metrics",
        "model",
        "vault",
        "credentials",
        "http_client",
        "local_time",
    }
)
_MAY_IMPORT: dict[str, frozenset[str]] = {
    "__main__": frozenset({"cli"}),
    "cli": frozenset({"daemon", "doctor", "settings", "state", "access", "host", "store"})
    | frozenset({"cli_backup", "cli_jobs", "cli_state", "backups", "agent"})
    | BASE,
    "cli_backup": frozenset({"backups", "control", "cli_show"}) | BASE,
    "cli_jobs": frozenset({"control", "cli_show"}) | BASE,
    "cli_state": frozenset({"state", "store"}) | BASE,
    "cli_show": frozenset({"control"}) | BASE,
    "control": BASE,
    "daemon": frozenset({"api", "observation", "probes", "settings", "state", "store", "bus"})
    | frozenset({"components", "supervised", "standby", "serving"})
    | CAPABILITIES
    | BASE,
    "components": BASE,
    "supervised": frozenset({"components", "bus"}) | CAPABILITIES | BASE,
    "standby": frozenset({"components", "store"}) | BASE,
    "serving": frozenset({"api", "settings"}) | CAPABILITIES | BASE,
    "api": frozenset({"settings", "store"}) | CAPABILITIES | BASE,
    "observation": frozenset({"store"}) | CAPABILITIES | BASE,
    "doctor": frozenset({"api", "bus", "settings", "store"}) | CAPABILITIES | BASE,
    "state": frozenset({"store", "updates"}) | BASE,
    "probes": CAPABILITIES | BASE,
    "settings": BASE,
    **dict.fromkeys(CAPABILITIES, frozenset({"store", "bus"}) | BASE),
    "store": BASE,
    "bus": BASE,
    # What all stand on knows nothing above itself.
    **dict.fromkeys(BASE, frozenset({"errors", "clock", "validation"})),
    "vault": frozenset({"errors", "atomic", "credentials"}),
    # The worker of another machine: it stands for itself, but for how archives are unpacked.
    "agent": frozenset({"jobs"}) | BASE,
    "errors": frozenset(),
    "clock": frozenset(),
    "validation": frozenset({"errors", "json_structure", "validation_messages"}),
    "json_structure": frozenset({"errors"}),
}

# The one home of each foreign API: a module's path, or the beginning of it.
_HOMES: dict[str, tuple[str, ...]] = {
    "docker": ("containers/engine.py",),
    "requests": ("containers/engine.py",),
    "pyroute2": ("host/network.py",),
    "systemd": ("host/",),
    "dbus_next": ("bus/",),
    "dbus_fast": ("bus/",),
    "nats": ("store/jetstream.py",),
    "grpc": ("processes/", "cluster/"),
    "sqlite3": ("store/",),
    "prometheus_client": ("metrics.py",),
    "psutil": ("host/", "agent/"),
    "jwt": ("access/",),
    "cryptography": ("api/certificates.py", "backups/archive/passphrase.py", "updates/bundle.py", "vault.py"),
    "asyncssh": ("jobs/ssh/",),
    "isal": ("backups/archive/",),
    "pyrage": ("backups/archive/age.py",),
    "aiohttp": ("api/", "containers/streams.py", "updates/", "jobs/tasks/", "agent/", "http_client.py"),
    "multidict": ("api/",),
    "yarl": ("http_client.py",),
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(source: str) -> Iterator[tuple[str, int]]:
    """Every module that is imported, wherever the import stands, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            assert node.module is not None
            # `from homed.api import x` may name a module.
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def part(relative: str) -> str:
    """The package or module directly under homed: `api/front.py` is of `api`."""
    return relative.partition("/")[0].removesuffix(".py")


def wrong_arrows(relative: str, source: str) -> list[str]:
    own = part(relative)
    wrong = []
    for name, line in imports(source):
        words = name.split(".")
        if words[0] != "homed" or len(words) < 2 or words[1].startswith("_"):
            continue
        target = words[1]
        if target != own and target not in _MAY_IMPORT.get(own, frozenset()):
            wrong.append(f"{relative}:{line}: {own} → {target}")
    return sorted(set(wrong))


def strangers(relative: str, source: str) -> list[str]:
    wrong = []
    for name, line in imports(source):
        homes = _HOMES.get(name.partition(".")[0])
        if homes is not None and not relative.startswith(homes):
            wrong.append(f"{relative}:{line}: {name} has its home in {', '.join(homes)}")
    return sorted(set(wrong))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_arrow_points_the_right_way(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    assert wrong_arrows(relative, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_foreign_api_has_one_home(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    assert strangers(relative, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("containers/plan.py", "from homed.api import front"),
        ("containers/plan.py", "from homed.api.front import Front"),
        ("containers/plan.py", "import homed.daemon"),
        ("containers/keeper.py", "from homed.access.keys import Keys"),
        ("containers/keeper.py", "def later():\n    from homed.host import board"),
        ("store/sqlite.py", "from homed.containers.records import Service"),
        ("errors.py", "from homed import config"),
        ("api/front.py", "from homed.daemon import Daemon"),
        ("api/front.py", "from homed import daemon"),
        ("brand_new/thing.py", "from homed.api import front"),
    ],
)
def test_the_check_sees_an_arrow_that_points_the_wrong_way(relative: str, source: str) -> None:
    assert len(wrong_arrows(relative, source)) == 1


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("containers/executor.py", "import docker"),
        ("containers/executor.py", "from docker.errors import NotFound"),
        ("containers/frames.py", "def later():\n    import aiohttp"),
        ("host/board.py", "from pyroute2 import IPRoute"),
        ("containers/keeper.py", "from systemd import journal"),
        ("updates/rauc.py", "from dbus_next.aio import MessageBus"),
    ],
)
def test_the_check_sees_a_foreign_api_away_from_its_home(relative: str, source: str) -> None:
    assert strangers(relative, source)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= _LONGEST_MODULE


def test_nothing_is_left_to_be_done_in_the_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX)\b", line)
    ]
    assert found == []


def test_every_package_under_homed_has_its_arrows_set_down() -> None:
    parts = {part(path.relative_to(ROOT).as_posix()) for path in modules()} - {"__init__"}
    assert parts <= _MAY_IMPORT.keys()


def test_what_is_imported_is_declared_or_of_python_itself() -> None:
    """Only what pyproject.toml names: what a dependency happens to bring along may be gone with its next release."""
    text = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition("dependencies = [")[2].partition("]")[0]
    declared = set(re.findall(r'"([a-z0-9-]+)', block))
    names = {
        "dbus_next": "dbus-next", "jwt": "pyjwt", "prometheus_client": "prometheus-client", "systemd": "systemd-python",
    }  # fmt: skip
    # docker raises their errors, aiohttp takes and gives multidicts and URLs of yarl: parts of their own interfaces.
    through = {"requests": "docker", "urllib3": "docker", "multidict": "aiohttp", "yarl": "aiohttp"}
    foreign = set()
    for path in modules():
        for name, _ in imports(path.read_text(encoding="utf-8")):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "homed":
                foreign.add(through.get(top, names.get(top, top)))
    assert foreign <= declared

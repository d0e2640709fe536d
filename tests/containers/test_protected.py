"""What no container may ever have of homed, by whatever name or mount."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import homed
from homed.config import Config
from homed.config.containers import Containers
from homed.containers import policy, protected
from homed.containers.protected import Mount, Place, Protected
from homed.containers.spec import ServiceSpec

OPEN = Containers(allow_privileged=True, allow_host_root=True, allow_docker_socket=True)


def refused(source: Path | str, own: Protected, allowed: Containers = OPEN, mode: str = "") -> bool:
    spec = ServiceSpec(image="app:1", volumes=(f"{source}:/x{mode}",))
    return bool(policy.violations(spec, allowed, own))


def of_config(tmp_path: Path, **config: object) -> Protected:
    return protected.of_daemon(
        msgspec.convert(config, Config), tmp_path / "elsewhere" / "homed.toml", tmp_path / "state"
    )


def test_homeds_code_and_interpreter_are_never_mounted(tmp_path: Path) -> None:
    own = of_config(tmp_path)
    package = Path(homed.__file__).parent
    venv, executable = Path(sys.prefix), Path(sys.executable)
    stdlib = Path(os.__file__).parent
    library = Path(msgspec.__file__).parent
    for path in (package, package / "cli.py", package.parent, venv, executable, executable.resolve(), stdlib, library):
        for mode in ("", ":ro"):
            assert refused(path, own, mode=mode), path
    assert refused("/", own) and refused(package.parent.parent, own)
    roots = Containers(data_roots=(str(package.parent),))
    assert refused(package / "containers", own, roots), "a data root does not open it"


def test_what_homed_keeps_is_never_mounted_wherever_it_lies(tmp_path: Path) -> None:
    own = of_config(
        tmp_path,
        api={"tls": {"certificate": "/data/tls.crt", "key": "/data/tls.key"}, "listen": ["unix:/data/run/api.sock"]},
        backups={
            "directory": "/data/backups",
            "repository": {"url": "/data/restic", "password_file": "/data/password"},
            "targets": [{"name": "x", "url": "sftp://a@b/c", "key_file": "/data/key"}],
        },
        updates={"directory": "/data/bundles"},
    )
    never = (
        tmp_path / "state", tmp_path / "state" / "homed.db", tmp_path / "elsewhere" / "homed.toml",
        tmp_path / "elsewhere", tmp_path, "/data/backups", "/data/backups/x", "/data", "/data/restic",
        "/data/password", "/data/key", "/data/bundles", "/data/tls.key", "/data/run", "/data/run/api.sock",
        "/etc/homed", "/etc/homed/homed.toml", "/run/homed/api.sock", "/run/credentials/homed.service",
        "/etc/credstore", "/var/tmp", "/var/tmp/homed-jobs-0123", "/tmp", "/tmp/systemd-private-1-x/tmp",
        "/proc/1/root", "/proc/self/cwd",
    )  # fmt: skip
    for path in never:
        for allowed in (OPEN, Containers(data_roots=("/data", str(tmp_path), "/var/tmp"))):
            assert refused(path, own, allowed), path
    for path in ("/data/app", "/data/backups2", tmp_path / "state2"):
        assert not refused(path, own), path
    assert not refused("/etc/localtime", own, Containers(), ":ro")


def test_credentials_of_systemd_are_never_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/data/credentials")
    assert refused("/data/credentials/homed.secret.key", of_config(tmp_path))


def test_a_hard_link_and_a_link_are_what_they_lead_to(tmp_path: Path) -> None:
    secret = tmp_path / "own" / "homed.toml"
    secret.parent.mkdir()
    secret.write_text("x")
    (tmp_path / "data").mkdir()
    os.link(secret, tmp_path / "data" / "hard")
    (tmp_path / "data" / "soft").symlink_to(secret.parent)
    own = Protected(private=(str(secret),))
    assert refused(tmp_path / "data" / "hard", own)
    assert refused(tmp_path / "data" / "soft", own)
    assert not refused(tmp_path / "data", own)


def test_a_path_is_told_by_its_file_system_and_its_place_in_it() -> None:
    mounts = [
        Mount("8:1", "/", "/"),
        Mount("8:1", "/opt/homed", "/data/code"),
        Mount("8:2", "/", "/mnt/disk"),
        Mount("8:1", "/", "/mnt/hidden"),
        Mount("0:9", "/", "/mnt/hidden"),
    ]
    assert protected.places("/srv/x", mounts) == [Place("8:1", "/srv/x")]
    assert protected.places("/data/code/lib", mounts) == [Place("8:1", "/opt/homed/lib")]
    assert set(protected.places("/data", mounts)) == {Place("8:1", "/data"), Place("8:1", "/opt/homed")}
    assert protected.places("/mnt/disk", mounts) == [Place("8:2", "/")]
    assert protected.places("/mnt/hidden/x", mounts) == [Place("0:9", "/x")]
    assert protected.places("/x", []) == []


_BY_MOUNTS = """
import sys
from homed.config.containers import Containers
from homed.containers import policy
from homed.containers.protected import Protected
from homed.containers.spec import ServiceSpec
top = sys.argv[1]
own = Protected(private=(f"{top}/state",))
allowed = Containers(data_roots=(f"{top}/data",))
for name in ("whole", "part", "above", "free", ""):
    spec = ServiceSpec(image="app:1", volumes=(f"{top}/data/{name}:/x",))
    print(name, bool(policy.violations(spec, allowed, own)))
"""


def test_a_bind_mount_of_it_is_it(tmp_path: Path) -> None:
    for folder in ("state/inner", "data/whole", "data/part", "data/above", "data/free", "other"):
        (tmp_path / folder).mkdir(parents=True)
    mounts = " && ".join(
        f"mount --bind {tmp_path}/{source} {tmp_path}/data/{target}"
        for source, target in (("state", "whole"), ("state/inner", "part"), ("", "above"), ("other", "free"))
    )
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-c", _BY_MOUNTS]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=30, check=False)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("a mount needs root")
    assert done.stdout.splitlines() == ["whole True", "part True", "above True", "free False", " True"], done.stderr

"""`rauc/bundle`: what comes out of it, read by RAUC itself."""

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.rauc_files.running import RAUC_FILES, Build, Run, need, run
from tests.support.wait import until

MANIFESTS = sorted((RAUC_FILES / "manifests").glob("*.raucm"))


def read(bundle: Path, keyring: Path, rauc: tuple[str | Path, ...] = ("rauc",)) -> dict[str, str]:
    """What RAUC says of a bundle that it trusts."""
    done = run(*rauc, f"--keyring={keyring}", "info", "--output-format=shell", bundle)
    assert done.returncode == 0, done.stderr
    return dict(word.partition("=")[::2] for line in done.stdout.splitlines() for word in shlex.split(line))


def content(bundle: Path, tmp_path: Path) -> Path:
    """What is in a bundle."""
    target = tmp_path / "content"
    done = run("unsquashfs", "-d", target, bundle)
    assert done.returncode == 0, done.stderr
    return target


def only(tmp_path: Path) -> list[str]:
    """What lies beside the bundle: what was there before, and it alone."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "tree")


@pytest.mark.parametrize("kind", ["ext4", "tar", "squashfs"])
@pytest.mark.parametrize("form", ["plain", "verity"])
def test_a_tree_becomes_a_signed_bundle(
    build: Build, tree: Path, tmp_path: Path, keys: Path, form: str, kind: str
) -> None:
    told = ("--compatible", "board", "--version", "1.4.0", "--description", "a system", "--build", "77")
    made = build(*told, "--format", form, "--root", tree, "--type", kind)

    assert made.returncode == 0, made.stderr
    assert made.stderr == ("" if os.geteuid() == 0 else made.stderr)
    said = read(tmp_path / "made.raucb", keys / "keyring.pem")
    assert said["RAUC_MF_COMPATIBLE"] == "board"
    assert said["RAUC_MF_VERSION"] == "1.4.0"
    assert said["RAUC_MF_DESCRIPTION"] == "a system"
    assert said["RAUC_MF_BUILD"] == "77"
    assert said["RAUC_IMAGE_NAME_0"] == f"rootfs.{kind}"
    assert said["RAUC_IMAGE_CLASS_0"] == "rootfs"
    whole = run("rauc", f"--keyring={keys / 'keyring.pem'}", "info", tmp_path / "made.raucb").stdout
    assert f"Bundle Format: \t{form}" in whole
    assert only(tmp_path) == ["made.raucb"]


def test_every_rauc_reads_it(
    build: Build, tree: Path, tmp_path: Path, keys: Path, rauc: tuple[str | Path, ...]
) -> None:
    build("--manifest", MANIFESTS[0], "--version", "2", "--root", tree)

    assert read(tmp_path / "made.raucb", keys / "keyring.pem", rauc)["RAUC_MF_VERSION"] == "2"


def test_another_authority_s_keyring_refuses_it(
    build: Build, tree: Path, tmp_path: Path, rauc: tuple[str | Path, ...]
) -> None:
    build("--compatible", "board", "--version", "1", "--root", tree)
    run(RAUC_FILES / "pki", "new", tmp_path / "others")

    refused = run(*rauc, f"--keyring={tmp_path / 'others/keyring.pem'}", "info", tmp_path / "made.raucb")

    assert refused.returncode != 0
    assert "signature" in refused.stderr


def test_nothing_is_left_that_the_keyring_does_not_trust(build: Build, tree: Path, tmp_path: Path) -> None:
    run(RAUC_FILES / "pki", "new", tmp_path / "others")

    made = build("--compatible", "c", "--version", "1", "--root", tree, "--keyring", tmp_path / "others/keyring.pem")

    assert made.returncode == 1
    assert "bundle: rauc failed" in made.stderr
    assert only(tmp_path) == ["others"]


def test_without_a_keyring_it_says_that_nothing_was_checked(keys: Path, tree: Path, tmp_path: Path) -> None:
    need(rauc="rauc", mksquashfs="squashfs-tools")
    signed = ("--cert", keys / "ann.cert.pem", "--key", keys / "ann.key.pem")

    made = run(
        RAUC_FILES / "bundle", *signed, "--compatible", "c", "--version", "1", "--root", tree, tmp_path / "b.raucb"
    )

    assert made.returncode == 0, made.stderr
    assert "not checked" in made.stdout


def test_a_signer_that_the_boards_will_refuse_is_warned_of(
    keys: Path, build: Build, tree: Path, tmp_path: Path
) -> None:
    # As an authority that also signs mail would make it.
    key, request, made, usage = (tmp_path / name for name in ("key", "request", "cert", "usage"))
    usage.write_text("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=emailProtection\n")
    run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", "/CN=mail", "-out", request)
    authority = ("-CA", keys / "authority/cert.pem", "-CAkey", keys / "authority/key.pem")
    run("openssl", "x509", "-req", "-in", request, *authority, "-days", "9", "-extfile", usage, "-out", made)

    done = build("--compatible", "c", "--version", "1", "--root", tree, "--cert", made, "--key", key)

    assert done.returncode == 0, done.stderr
    assert "check-purpose=codesign will refuse" in done.stderr


def test_owners_modes_and_links_are_kept(build: Build, tree: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(tree / "usr/bin/tool", 1234, 5678)
    (tree / "usr/bin/tool").chmod(0o4755)

    for kind in ("tar", "squashfs", "ext4"):
        build("--compatible", "c", "--version", "1", "--root", tree, "--type", kind)
        image = content(tmp_path / "made.raucb", tmp_path) / f"rootfs.{kind}"
        if kind == "tar":
            listed = run("tar", "--list", "--verbose", "--numeric-owner", f"--file={image}").stdout
            assert "-rwsr-xr-x 1234/5678" in listed
            assert "link -> tool" in listed
        elif kind == "squashfs":
            listed = run("unsquashfs", "-lln", image).stdout
            assert "-rwsr-xr-x 1234/5678" in listed
            assert "link -> tool" in listed
        else:
            listed = run("debugfs", "-R", "stat /usr/bin/tool", image).stdout
            assert "Mode:  04755" in listed
            assert "User:  1234   Group:  5678" in listed
        shutil.rmtree(tmp_path / "content")


@pytest.mark.parametrize("kind", ["tar", "squashfs"])
def test_the_same_tree_gives_the_same_image(build: Build, tree: Path, tmp_path: Path, kind: str) -> None:
    digests = set()
    copy = tmp_path / "copy"
    for number in range(2):
        # Made anew in another order, with files of this minute, as a second build does.
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in sorted(os.listdir(tree), reverse=bool(number)):
            shutil.copytree(tree / name, copy / name, symlinks=True)
            os.utime(copy / name)
        build("--compatible", "c", "--version", "1", "--root", copy, "--type", kind, SOURCE_DATE_EPOCH="1700000000")
        image = content(tmp_path / "made.raucb", tmp_path) / f"rootfs.{kind}"
        digests.add(hashlib.sha256(image.read_bytes()).hexdigest())
        shutil.rmtree(tmp_path / "content")

    assert len(digests) == 1


def test_an_ext4_image_is_as_small_as_its_content_or_as_large_as_told(build: Build, tree: Path, tmp_path: Path) -> None:
    (tree / "large").write_bytes(os.urandom(6 << 20))

    build("--compatible", "c", "--version", "1", "--root", tree)
    least = (content(tmp_path / "made.raucb", tmp_path) / "rootfs.ext4").stat().st_size
    shutil.rmtree(tmp_path / "content")
    build("--compatible", "c", "--version", "1", "--root", tree, "--size", "64M")
    told = (content(tmp_path / "made.raucb", tmp_path) / "rootfs.ext4").stat().st_size
    small = build("--compatible", "c", "--version", "1", "--root", tree, "--size", "4M")

    assert 6 << 20 < least < 32 << 20
    assert told == 64 << 20
    assert "needs about 6 MiB" in small.stderr


def test_boot_loaders_can_read_the_ext4_image(build: Build, tree: Path, tmp_path: Path) -> None:
    build("--compatible", "c", "--version", "1", "--root", tree)

    features = run("dumpe2fs", "-h", content(tmp_path / "made.raucb", tmp_path) / "rootfs.ext4").stdout

    assert "extent" in features
    assert "metadata_csum_seed" not in features
    assert "orphan_file" not in features


def test_many_small_files_fit(build: Build, tree: Path) -> None:
    for number in range(2000):
        (tree / f"file-{number}").touch()

    made = build("--compatible", "c", "--version", "1", "--root", tree)

    assert made.returncode == 0, made.stderr


def test_an_image_is_taken_as_it_is_and_others_go_with_it(build: Build, tmp_path: Path, keys: Path) -> None:
    (tmp_path / "system.ext4").write_bytes(os.urandom(5000))
    (tmp_path / "apps.squashfs").write_bytes(os.urandom(6000))

    made = build(
        *("--compatible", "board", "--version", "1", "--image", tmp_path / "system.ext4"),
        *("--app", tmp_path / "apps.squashfs", "appfs"),
    )

    assert made.returncode == 0, made.stderr
    said = read(tmp_path / "made.raucb", keys / "keyring.pem")
    assert (said["RAUC_IMAGE_NAME_0"], said["RAUC_IMAGE_CLASS_0"]) == ("rootfs.ext4", "rootfs")
    assert (said["RAUC_IMAGE_NAME_1"], said["RAUC_IMAGE_CLASS_1"]) == ("appfs.squashfs", "appfs")
    inside = content(tmp_path / "made.raucb", tmp_path)
    assert (inside / "rootfs.ext4").read_bytes() == (tmp_path / "system.ext4").read_bytes()
    assert (inside / "appfs.squashfs").read_bytes() == (tmp_path / "apps.squashfs").read_bytes()


def test_how_it_is_packed_can_be_told(build: Build, tree: Path, tmp_path: Path) -> None:
    made = build("--compatible", "c", "--version", "1", "--root", tree, "--mksquashfs-args=-comp xz")

    assert made.returncode == 0, made.stderr
    assert "Compression xz" in run("unsquashfs", "-stat", tmp_path / "made.raucb").stdout


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_a_board_s_manifest_brings_the_hooks(
    build: Build, tree: Path, tmp_path: Path, keys: Path, manifest: Path
) -> None:
    told = ("--minimum-version", "1.2", "--variant", "one", "--variant", "two words")
    made = build("--manifest", manifest, "--version", "1.4.0", "--root", tree, *told)

    assert made.returncode == 0, made.stderr
    said = read(tmp_path / "made.raucb", keys / "keyring.pem")
    assert said["RAUC_MF_COMPATIBLE"] == f"homed-{manifest.stem}"
    assert said["RAUC_MF_HOOKS"] == "install-check"
    assert said["RAUC_IMAGE_HOOKS_0"] == "post-install"
    inside = content(tmp_path / "made.raucb", tmp_path)
    for name in ("hook", "install-check", "slot"):
        assert (inside / name).read_bytes() == (RAUC_FILES / "hooks" / name).read_bytes()
        assert os.access(inside / name, os.X_OK)
    assert (inside / "conditions").read_text() == "variant one\nvariant two words\nminimum-version 1.2\n"


def test_a_hook_of_one_s_own_takes_their_place(build: Build, tree: Path, tmp_path: Path, keys: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\n")

    build("--compatible", "c", "--version", "1", "--root", tree, "--hook", mine)

    assert read(tmp_path / "made.raucb", keys / "keyring.pem")["RAUC_MF_HOOKS"] == "install-check"
    inside = content(tmp_path / "made.raucb", tmp_path)
    assert sorted(path.name for path in inside.iterdir()) == ["hook", "manifest.raucm", "rootfs.ext4"]
    assert (inside / "hook").read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--root", "nowhere"], "there is no directory nowhere"),
        (["--image", "nothing.ext4"], "there is no file nothing.ext4"),
        (["--image", "{tree}/etc/os-release"], "RAUC tells by its name"),
        (["--root", "{tree}", "--key", "nothing"], "there is no file nothing"),
        (["--root", "{tree}", "--type", "zip"], "no image of the type zip"),
        (["--root", "{tree}", "--type", "tar", "--size", "5M"], "--size is for an ext4 image"),
        (["--root", "{tree}", "--hooks", "--slot", "a.b"], "no name for a class of slots"),
        (["--root", "{tree}", "--app", "{tree}/a.ext4", "rootfs"], "named twice"),
        (["--root", "{tree}", "--description", "a\n[hooks]"], "cannot stand in a manifest"),
        (["--root", "{tree}", "--variant", "one"], "add --hooks"),
        (["--root", "{tree}", "--manifest", "{tree}/etc/os-release"], "is no manifest"),
        (["--root", "{tree}", "--manifest", "{manifest}", "--type", "squashfs"], "nothing can be written to squashfs"),
        (["--root", "{tree}", "--cert", "{keys}/keyring.pem"], "rauc failed"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(
    build: Build, tree: Path, tmp_path: Path, keys: Path, arguments: list[str], reason: str
) -> None:
    spelled = [word.format(tree=tree, keys=keys, manifest=MANIFESTS[0]) for word in arguments]

    made = build("--compatible", "board", "--version", "1", *spelled)

    assert made.returncode == 1
    assert made.stderr.startswith("bundle: ")
    assert reason in made.stderr
    assert only(tmp_path) == []


def test_an_older_bundle_stays_when_a_new_one_fails(build: Build, tree: Path, tmp_path: Path) -> None:
    build("--compatible", "c", "--version", "1", "--root", tree)
    before = (tmp_path / "made.raucb").read_bytes()

    failed = build("--compatible", "c", "--version", "2", "--root", tree, "--size", "1K")

    assert failed.returncode == 1
    assert (tmp_path / "made.raucb").read_bytes() == before
    assert only(tmp_path) == ["made.raucb"]
    assert build("--compatible", "c", "--version", "2", "--root", tree).returncode == 0
    assert (tmp_path / "made.raucb").read_bytes() != before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_one_that_is_ended(keys: Path, tree: Path, tmp_path: Path, number: signal.Signals) -> None:
    need(rauc="rauc", mksquashfs="squashfs-tools")
    # A RAUC that is still at work when it happens.
    slow = tmp_path / "programs"
    slow.mkdir()
    (slow / "rauc").write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 600\n"
    )
    (slow / "rauc").chmod(0o755)
    signed = ("--cert", keys / "ann.cert.pem", "--key", keys / "ann.key.pem")
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [
            RAUC_FILES / "bundle",
            *signed,
            "--compatible",
            "c",
            "--version",
            "1",
            "--root",
            tree,
            tmp_path / "out/b.raucb",
        ],
        env={**os.environ, "PATH": f"{slow}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
    )
    try:
        until("RAUC at work", lambda: (tmp_path / "pid").exists())
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    finally:
        process.kill()
        process.wait()

    assert list((tmp_path / "out").iterdir()) == []
    child = int((tmp_path / "pid").read_text())
    until("RAUC to be gone", lambda: not Path(f"/proc/{child}").exists())


def test_the_help_names_every_option() -> None:
    helped: Run = run(RAUC_FILES / "bundle", "--help")

    assert helped.returncode == 0
    for option in ("--root", "--image", "--manifest", "--hooks", "--keyring", "--intermediate"):
        assert option in helped.stdout

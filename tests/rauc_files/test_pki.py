"""`rauc/pki`: what it makes, and what it does not touch."""

from pathlib import Path

from tests.rauc_files.running import RAUC_FILES, Run, run


def pki(*arguments: str | Path) -> Run:
    return run(RAUC_FILES / "pki", *arguments)


def test_keys_are_for_their_owner_alone(keys: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (*keys.iterdir(), *(keys / "authority").iterdir())}

    assert modes == {
        "authority": 0o700,
        "key.pem": 0o600,
        "cert.pem": 0o600,
        "keyring.pem": 0o644,
        "ann.key.pem": 0o600,
        "ann.cert.pem": 0o644,
    }
    assert keys.stat().st_mode & 0o777 == 0o700


def test_a_signer_is_for_code_and_can_vouch_for_nobody(keys: Path) -> None:
    said = run(
        "openssl", "x509", "-in", keys / "ann.cert.pem", "-noout", "-ext", "basicConstraints,keyUsage,extendedKeyUsage"
    )

    assert said.stdout.split() == [
        *("X509v3", "Basic", "Constraints:", "critical", "CA:FALSE"),
        *("X509v3", "Key", "Usage:", "critical", "Digital", "Signature"),
        *("X509v3", "Extended", "Key", "Usage:", "Code", "Signing,", "E-mail", "Protection"),
    ]


def test_an_authority_vouches_for_signers_only(keys: Path) -> None:
    said = run("openssl", "x509", "-in", keys / "keyring.pem", "-noout", "-ext", "basicConstraints,keyUsage")

    assert "CA:TRUE, pathlen:0" in said.stdout
    assert "Certificate Sign, CRL Sign" in said.stdout


def test_it_says_loudly_that_it_is_for_development(tmp_path: Path) -> None:
    made = pki("new", tmp_path / "keys")

    assert "DEVELOPMENT ONLY" in made.stderr
    subject = run("openssl", "x509", "-in", tmp_path / "keys/keyring.pem", "-noout", "-subject").stdout
    assert "development only" in subject


def test_nothing_is_overwritten(keys: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in keys.rglob("*.pem")}
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")

    assert "never overwritten" in pki("new", keys).stderr
    assert "never overwritten" in pki("new", link).stderr
    assert "already" in pki("signer", keys, "ann").stderr
    assert {path: path.read_bytes() for path in keys.rglob("*.pem")} == before


def test_what_it_does_not_understand_leaves_nothing_behind(keys: Path, tmp_path: Path) -> None:
    before = sorted(keys.rglob("*"))

    for name in ("../eve", "", ".hidden", "a b"):
        assert pki("signer", keys, name).returncode == 1
    assert pki("signer", keys, "bob", "--days", "0").returncode == 1
    assert pki("signer", tmp_path / "nothing", "bob").returncode == 1
    assert pki().returncode == 2
    assert pki("sing", keys, "bob").returncode == 2
    assert sorted(keys.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_who_can_sign_and_until_when_is_shown(keys: Path) -> None:
    authority, signer = pki("show", keys).stdout.splitlines()

    assert "CN=authority" in authority.replace(" = ", "=")
    assert "CN=ann" in signer.replace(" = ", "=")
    assert "notAfter=" in signer

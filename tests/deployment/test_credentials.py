"""scripts/make_credentials.sh: what it makes holds, and it overwrites nothing."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_credentials.sh"

pytestmark = pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("ssh-keygen")),
    reason="openssl and ssh-keygen are not installed",
)


def make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def openssl(*arguments: str | Path) -> str:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_certificate_is_signed_by_the_authority_and_names_every_address(tmp_path: Path) -> None:
    done = make("--san", "fl.example.org", "--san", "10.1.2.3", tmp_path / "cred", "site-a")
    assert done.returncode == 0, done.stderr
    certs = tmp_path / "cred" / "certs"
    for hostname in ("superlink", "gate", "localhost", "fl.example.org"):
        openssl(
            "verify",
            "-CAfile",
            certs / "ca.crt",
            "-verify_hostname",
            hostname,
            certs / "server.crt",
        )
    for address in ("127.0.0.1", "::1", "10.1.2.3"):
        openssl("verify", "-CAfile", certs / "ca.crt", "-verify_ip", address, certs / "server.crt")
    with pytest.raises(subprocess.CalledProcessError):
        openssl(
            "verify", "-CAfile", certs / "ca.crt", "-verify_hostname", "other", certs / "server.crt"
        )


def test_private_files_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "cred"
    assert make(folder, "site-a").returncode == 0
    assert {mode(folder), mode(folder / "certs"), mode(folder / "keys")} == {0o700}
    private = ("certs/ca.key", "certs/server.key", "keys/site-a")
    assert {mode(folder / name) for name in private} == {0o600}
    public = ("certs/ca.crt", "certs/server.crt", "keys/site-a.pub")
    assert {mode(folder / name) for name in public} == {0o644}
    assert sorted(contents(folder)) == sorted([*private, *public])  # and nothing else is left
    assert (folder / "keys/site-a.pub").read_text().startswith("ecdsa-sha2-nistp384 ")


def test_a_site_is_added_later_and_the_rest_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cred"
    assert make(folder, "site-a").returncode == 0
    before = contents(folder)
    assert make(folder, "site-b").returncode == 0
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["keys/site-b", "keys/site-b.pub"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["site-b", "site-a"], "keys/site-a is there already"),
        ([], "no site was named: nothing to do"),
        (["../escape"], "site '../escape': use letters"),
        (["a.pub"], "not ending in .pub"),
        (["--days", "0", "site-b"], "--days=0: give a whole number"),
        (["--san", "late.example.org", "site-b"], "--san comes too late"),
        (["--force", "site-b"], "unknown option --force"),
    ],
)
def test_refusals_name_the_fault_and_change_nothing(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    folder = tmp_path / "cred"
    assert make(folder, "site-a").returncode == 0
    before = contents(tmp_path)
    done = make(folder, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["a b", "a,DNS:b", "-a", "a\nb", ""])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    done = make("--san", name, tmp_path / "cred")
    assert done.returncode == 2
    assert "neither a DNS name nor an IP address" in done.stderr
    assert not (tmp_path / "cred").exists()


def test_half_a_set_of_certificates_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cred"
    assert make(folder, "site-a").returncode == 0
    (folder / "certs" / "server.key").unlink()
    done = make(folder, "site-b")
    assert done.returncode == 2
    assert "holds 3 of its 4 files" in done.stderr
    assert not (folder / "keys" / "site-b").exists()

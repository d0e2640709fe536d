"""One sshd for what does it no harm."""

from collections.abc import Iterator

import pytest

from tests.support.sshd import Sshd, sshd


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd"), passwords=True, lines="MaxSessions 10") as running:
        yield running

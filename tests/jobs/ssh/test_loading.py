"""What a board without hosts is spared."""

import subprocess
import sys


def test_homed_starts_without_what_speaks_ssh() -> None:
    code = "import sys, homed.daemon; print('asyncssh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"

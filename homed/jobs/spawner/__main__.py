"""`python -m homed.jobs.spawner DESCRIPTOR BOOT`: homed itself starts it."""

import sys

from homed.jobs.spawner import spawner

if __name__ == "__main__":
    sys.exit(spawner.main(int(sys.argv[1]), sys.argv[2]))

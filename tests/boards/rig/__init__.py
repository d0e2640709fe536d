"""The rig: builds a Debian root and boots it as boards, several at once, under systemd-nspawn."""

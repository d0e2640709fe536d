"""Updates on a machine that really boots: firmware, bootloader, kernel, RAUC and homed in QEMU. `make test-vm`."""

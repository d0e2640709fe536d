"""homed against RAUC's own service on this machine; only the hardware is made up."""

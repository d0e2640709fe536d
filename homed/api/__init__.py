"""The HTTP API: one application on one port; one package per family, one module per resource."""

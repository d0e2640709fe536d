"""State: the interface (`base`), the embedded engine (`sqlite`), and what both hold."""

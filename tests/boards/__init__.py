"""Tests that need whole boards, and the rig that boots them."""

"""What every table of the configuration is."""

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the configuration; a field that it does not know is an error, so a typing mistake is seen."""

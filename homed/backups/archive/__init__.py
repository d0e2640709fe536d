"""The archive of a full backup: a tar file, written and read as a stream, with a manifest as its last member."""

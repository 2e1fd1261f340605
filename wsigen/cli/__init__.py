"""The commands: thin, one file each."""

"""Slides from end to end: the cascade joined to the journals and the writer."""

"""The report as files: the page with its pictures and plots, and the values."""

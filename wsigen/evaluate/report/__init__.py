"""The report on paper: pictures, plots, the page."""

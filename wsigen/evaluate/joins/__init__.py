"""From measures to rows of the report: every value with its interval, its floor, and its warnings."""

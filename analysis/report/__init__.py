"""One HTML file about a sweep: tables, figures, predictions, settings, and the origin of every number."""

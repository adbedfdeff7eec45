"""The application: its routes, pages and limits, put together."""

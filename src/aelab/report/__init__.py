"""The report of a run: tables, charts, claims, pages, model cards, and runs in MLflow."""

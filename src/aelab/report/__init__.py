"""What is said of the results: tables, charts, claims, pages, and their projection to MLflow."""

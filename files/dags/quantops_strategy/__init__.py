"""Daily trading strategy: bars, features, walk-forward evaluation and model registration, without Airflow."""

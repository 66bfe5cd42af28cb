"""The DAG as Celery canvas objects, sent by reference."""

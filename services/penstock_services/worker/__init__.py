"""The worker: runs jobs from `ingest` and tells on `events` what became of them."""

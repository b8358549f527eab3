"""`python -m services.metrics`."""

from penstock.cli.errors import report_errors
from penstock.service.lifecycle import run
from penstock.settings import Settings
from penstock.topology import load
from services.metrics.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        topology = load(settings.topology)
        run(build(settings, topology), settings, topology)

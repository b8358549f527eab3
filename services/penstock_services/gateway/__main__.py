"""`python -m penstock_services.gateway`."""

from penstock.service.lifecycle import run
from penstock.service.main import report_errors
from penstock.settings import Settings
from penstock.topology import load
from penstock_services.gateway.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        topology = load(settings.topology)
        run(build(topology), settings, topology)

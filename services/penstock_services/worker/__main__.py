"""`python -m penstock_services.worker`."""

from penstock.service.lifecycle import run
from penstock.service.main import report_errors
from penstock.settings import Settings
from penstock_services.worker.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        run(build(settings), settings)

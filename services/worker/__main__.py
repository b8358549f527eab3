"""`python -m services.worker`."""

from penstock.cli.errors import report_errors
from penstock.service.lifecycle import run
from penstock.settings import Settings
from services.worker.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        run(build(settings), settings)

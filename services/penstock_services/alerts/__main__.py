"""`python -m penstock_services.alerts`: runs the service; `check` and `backtest` are for `penstock alerts`."""

import sys

from penstock.service.lifecycle import run
from penstock.service.main import report_errors
from penstock.settings import Settings
from penstock_services.alerts import commands
from penstock_services.alerts.service import build

if __name__ == "__main__":
    with report_errors():
        if sys.argv[1:]:
            commands.run(sys.argv[1:])
        else:
            settings = Settings.from_env()
            run(build(settings), settings)

"""`python -m services.alerts`: runs the service; `check` and `backtest` are for `penstock alerts`."""

import sys

from penstock.cli.errors import report_errors
from penstock.service.lifecycle import run
from penstock.settings import Settings
from services.alerts import commands
from services.alerts.service import build

if __name__ == "__main__":
    with report_errors():
        if sys.argv[1:]:
            commands.run(sys.argv[1:])
        else:
            settings = Settings.from_env()
            run(build(settings), settings)

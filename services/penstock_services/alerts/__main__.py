"""`python -m penstock_services.alerts`: runs the service; with arguments one of the commands of `penstock alerts`."""

import signal
import sys

from penstock.service.main import main, report_errors
from penstock_services.alerts import commands
from penstock_services.alerts.service import build

if __name__ == "__main__":
    if sys.argv[1:]:
        with report_errors():
            commands.run(sys.argv[1:])
    else:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the rules are watched it must not end the process
        main(build)

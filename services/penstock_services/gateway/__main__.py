"""`python -m penstock_services.gateway` runs the service; `webhook` is for `penstock webhook test`."""

import sys

from penstock.service.main import main, report_errors
from penstock_services.gateway.service import build

if __name__ == "__main__":
    if sys.argv[1:2] == ["webhook"]:
        from penstock_services.gateway import trial

        with report_errors():
            trial.run(sys.argv[2:])
    else:
        main(build)

"""`python -m penstock_services.containers`: runs the service; with arguments a command of `penstock containers`."""

import sys

from penstock.service.main import main, report_errors

if __name__ == "__main__":
    with report_errors():
        from penstock_services.containers import commands
        from penstock_services.containers.service import build

        if sys.argv[1:]:
            commands.run(sys.argv[1:])
        else:
            main(build)

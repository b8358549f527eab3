"""`python -m penstock_services.worker`."""

from penstock.service.main import main
from penstock_services.worker.service import build

if __name__ == "__main__":
    main(build)

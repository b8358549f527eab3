"""`python -m penstock_services.metrics`."""

from penstock.service.main import main
from penstock_services.metrics.service import build

if __name__ == "__main__":
    main(build)

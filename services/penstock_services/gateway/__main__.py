"""`python -m penstock_services.gateway`."""

from penstock.service.main import main
from penstock_services.gateway.service import build

if __name__ == "__main__":
    main(build)

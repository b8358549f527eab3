# Debian's Valkey, set up as the published image is: no protected mode, data in /data, the redis-* names.
ARG BASE
FROM $BASE
RUN apt-get update \
 && apt-get install -y --no-install-recommends valkey-server \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s valkey-cli /usr/bin/redis-cli \
 && install --directory --owner valkey --group valkey /data \
 && printf '#!/bin/sh\nexec "$@" --protected-mode no\n' > /usr/local/bin/docker-entrypoint.sh \
 && chmod +x /usr/local/bin/docker-entrypoint.sh
WORKDIR /data
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["valkey-server"]

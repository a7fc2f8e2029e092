# PostgreSQL 15 of Debian 12 on the base of the stack's images: what an inventory of an earlier time may run.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN set -eu; \
    sed 's/trixie/bookworm/g' /etc/apt/sources.list > /etc/apt/sources.list.d/bookworm.list; \
    apt-get update; \
    groupadd --gid 10001 postgres; \
    useradd --uid 10001 --gid postgres --no-create-home --home-dir /var/lib/postgresql --shell /bin/bash postgres; \
    mkdir -p /etc/postgresql-common; \
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 pgbackrest; \
    install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY entrypoint /usr/local/bin/entrypoint
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PGDATA=/var/lib/postgresql/data/pgdata
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/entrypoint"]
CMD ["postgres"]

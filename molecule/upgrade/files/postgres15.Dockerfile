# PostgreSQL 15 of Debian 12, in the image of the stack's own: what an inventory of an earlier time may run.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
USER root
RUN set -eu; \
    sed 's/trixie/bookworm/g' /etc/apt/sources.list > /etc/apt/sources.list.d/bookworm.list; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER postgres

# Images: `logistics` (the last stage, so the default), `menu-api`, `order-api`, `payment-sim` (a payment
# gateway's double, for trying things out) and `tools` (devstack, for keys and tokens).
# The toolchain's version is that of rust-toolchain.toml, which stays outside: it would have rustup
# fetch the same toolchain again.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# Queries were checked when they were written (.sqlx): no database is needed here.
ENV SQLX_OFFLINE=true
# One after the other: together, devstack's features would be in the services too. The cache is no part
# of any layer, so what is wanted of it is copied out by the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --package logistics --package menu-api --package order-api \
        --package payment-sim \
    && install -D --target-directory=/out target/dist/logistics target/dist/menu-api \
        target/dist/order-api target/dist/payment-sim \
    && cargo build --profile dist --locked --package devstack \
    && install -D --target-directory=/out target/dist/devstack

FROM debian:bookworm-slim AS base
RUN groupadd --gid 10001 swift \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin swift

FROM base AS tools
COPY --from=build /out/devstack /usr/local/bin/devstack
# New volumes take over the owner of the folder that they are mounted on.
RUN install --directory --owner=swift --group=swift --mode=0700 /signing /tracking \
    && install --directory --owner=swift --group=swift --mode=0755 /verify
USER 10001:10001
ENTRYPOINT ["devstack"]

FROM base AS menu-api
COPY --from=build /out/menu-api /usr/local/bin/menu-api
USER 10001:10001
ENV MENU_LISTEN=0.0.0.0:8001 LOG_FORMAT=json
EXPOSE 8001
ENTRYPOINT ["menu-api"]
CMD ["serve"]

FROM base AS order-api
# The payment gateway is called over TLS.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/order-api /usr/local/bin/order-api
USER 10001:10001
ENV ORDER_LISTEN=0.0.0.0:8000 LOG_FORMAT=json
EXPOSE 8000
ENTRYPOINT ["order-api"]
CMD ["all"]

FROM base AS payment-sim
COPY --from=build /out/payment-sim /usr/local/bin/payment-sim
RUN install --directory --owner=swift --group=swift --mode=0700 /books
USER 10001:10001
ENV PAYMENT_SIM_LISTEN=0.0.0.0:8010 PAYMENT_SIM_LEDGER=/books/payments.jsonl
EXPOSE 8010
ENTRYPOINT ["payment-sim"]
CMD ["serve"]

FROM base AS logistics
COPY --from=build /out/logistics /usr/local/bin/logistics
USER 10001:10001
ENV LOGISTICS_LISTEN=0.0.0.0:8002 LOG_FORMAT=json
EXPOSE 8002
ENTRYPOINT ["logistics"]
CMD ["all"]

# syntax=docker/dockerfile:1
# Every Rampmeter binary in one small image; docker-compose.yml picks one each.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked \
        --bin control-plane --bin gateway-agent --bin rampctl --bin rampmeter-demo \
    && mkdir /out \
    && cp target/release/control-plane target/release/gateway-agent \
          target/release/rampctl target/release/rampmeter-demo /out/

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/rampmeter --create-home rampmeter
COPY --from=build /out/ /usr/local/bin/
USER 10001:10001
WORKDIR /var/lib/rampmeter
# Held decisions and configuration of an agent; see --state-dir.
VOLUME /var/lib/rampmeter
# 7700 control plane (gRPC), 7780 its HTTP port, 8080 gateway, 9901 its admin port.
EXPOSE 7700 7780 8080 9901
CMD ["control-plane", "--help"]
